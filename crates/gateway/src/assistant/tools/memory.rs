//! `memory_search` and `memory_get` of an agent that runs here: what [`crate::memories`] answers, refused in words for the
//! model.

use serde_json::Value;

use super::{Done, Why, count, text};
use crate::memories::tools::{self, ToolError};
use crate::memories::{Memories, Shelf};

pub(super) fn call(
    memories: &Memories,
    shelf: &Shelf,
    name: &str,
    args: &Value,
    session: &str,
) -> Result<Done, Why> {
    let (words, counts): (_, &[&str]) = match name {
        "memory_search" => ("query", &["maxResults"]),
        _ => ("path", &["from", "lines"]),
    };
    text(args, words)?;
    for name in counts {
        count(args, name)?;
    }
    tools::call(memories, shelf, name, args, session)
        .map(Done::json)
        .map_err(|error| match error {
            ToolError::Arguments(why) | ToolError::Broken(why) => Why::Error(why),
        })
}
