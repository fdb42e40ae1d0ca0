//! The tools of servers as a model is offered them, and what becomes of a call.
//!
//! Source: agent-bundle-mcp-materialize.ts at 2026.9.6: names, order, the tools for resources and prompts, and words.

use std::collections::HashSet;
use std::sync::Arc;

use agent::Tool;
use base64::Engine as _;
use mcp::content::{self, Block};
use mcp::{metadata, names};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::Lease;
use super::server::{Catalog, Server};
use crate::assistant::Image;
use crate::assistant::tools::{Done, Why, untrusted};

/// Tools of all servers that a turn has; the last ones by name are left out.
const TOOLS_MAX: usize = 512;
/// A tool whose schema is longer is left out: each call of the model carries it.
const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Pictures of one answer that a model is shown, and the base64 of each.
const PICTURES_MAX: usize = 8;
const PICTURE_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Of why a call failed.
const REASON_CHARS_MAX: usize = 4_000;

#[derive(Debug, Clone)]
enum Work {
    Tool(String),
    ResourcesList,
    ResourcesRead,
    PromptsList,
    PromptsGet,
}

struct Offered {
    tool: Tool,
    server: Arc<Server>,
    work: Work,
}

/// What the servers of one turn offer.
pub(in crate::assistant) struct Offer {
    all: Vec<Offered>,
    /// Of answers that the turn has not taken yet.
    pictures: Mutex<Vec<Image>>,
    _lease: Lease,
}

impl Offer {
    pub(super) fn new(servers: Vec<(Arc<Server>, Arc<Catalog>)>, lease: Lease) -> Self {
        Self {
            all: offered(servers),
            pictures: Mutex::default(),
            _lease: lease,
        }
    }

    pub(in crate::assistant) fn list(&self) -> impl Iterator<Item = &Tool> {
        self.all.iter().map(|offered| &offered.tool)
    }

    /// The pictures of what was answered since the last time.
    pub(in crate::assistant) fn pictures(&self) -> Vec<Image> {
        std::mem::take(&mut *self.pictures.lock())
    }

    /// `None`: none of these tools has this name.
    pub(in crate::assistant) async fn call(
        &self,
        name: &str,
        args: &Value,
    ) -> Option<Result<Done, Why>> {
        let offered = self.all.iter().find(|offered| offered.tool.name == name)?;
        Some(self.work(offered, args).await)
    }

    async fn work(&self, offered: &Offered, args: &Value) -> Result<Done, Why> {
        let server = &offered.server;
        lacking(&offered.tool, args)?;
        let given = args.as_object().cloned().unwrap_or_default();
        let text = |key: &str| args[key].as_str().unwrap_or_default();
        let failed = |why: String| failed(server, &offered.tool.name, &why);
        let (operation, answer) = match &offered.work {
            Work::Tool(tool) => {
                let answer = server.call(tool, given).await.map_err(failed)?;
                return self.answered(server, tool, &answer);
            }
            Work::PromptsGet => {
                let params = json!({ "name": text("name"), "arguments": words(args)? });
                let answer = server.ask("prompts/get", params).await.map_err(failed)?;
                let told = self.told(server, content::of_prompt(&answer));
                return Ok(done(server, ("mcpOperation", "prompts_get"), told));
            }
            Work::ResourcesList => {
                let listed = server.entries("resources/list", "resources").await;
                let listed = listed.map_err(failed)?;
                ("resources_list", json!({ "resources": listed }))
            }
            Work::PromptsList => {
                let listed = server.entries("prompts/list", "prompts").await;
                let listed = listed.map_err(failed)?;
                ("prompts_list", json!({ "prompts": listed }))
            }
            Work::ResourcesRead => {
                let params = json!({ "uri": text("uri") });
                let mut answer = server.ask("resources/read", params).await.map_err(failed)?;
                if let Some(fields) = answer.as_object_mut() {
                    fields.remove("_meta");
                }
                ("resources_read", answer)
            }
        };
        let told = self.told(server, vec![Block::Text(content::pretty(&answer))]);
        Ok(done(server, ("mcpOperation", operation), told))
    }

    fn answered(&self, server: &Server, tool: &str, answer: &Value) -> Result<Done, Why> {
        let told = self.told(server, content::of_call(answer));
        let done = done(server, ("mcpTool", tool), told);
        if answer["isError"] != true {
            return Ok(done);
        }
        let mut details = done.details;
        details["status"] = json!("error");
        details["error"] = json!(first_words(answer));
        Err(Why::Failed {
            text: done.text,
            details,
        })
    }

    /// The words of an answer, marked as a stranger's; its pictures are put aside for the model.
    fn told(&self, server: &Server, blocks: Vec<Block>) -> String {
        let mut texts = Vec::new();
        let mut pictures = self.pictures.lock();
        for block in blocks {
            match block {
                Block::Text(text) => texts.push(text),
                Block::Image { data, mime } => match unshown(&data, &mime, pictures.len()) {
                    None => {
                        texts.push(format!("[image: {mime}]"));
                        pictures.push(Image { data, mime });
                    }
                    Some(why) => texts.push(format!("[an image is left out: {why}]")),
                },
            }
        }
        marked(server, &texts.join("\n"))
    }
}

/// A server's words, as such.
fn marked(server: &Server, words: &str) -> String {
    untrusted(&format!("MCP server {}", server.spec.safe_name), words)
}

/// A call without an answer. The reason may be the server's own word.
fn failed(server: &Server, tool: &str, why: &str) -> Why {
    // Of this, since it is written as JSON, the answer has room for the end of the mark.
    let why: String = why.chars().take(REASON_CHARS_MAX).collect();
    let told = json!({ "status": "error", "tool": tool, "error": marked(server, &why) });
    Why::Failed {
        text: format!("{told:#}"),
        details: json!({ "status": "error", "tool": tool, "error": why }),
    }
}

/// Refuses a call without an argument that must be there, before the server has to.
fn lacking(tool: &Tool, args: &Value) -> Result<(), Why> {
    let required = tool.parameters["required"].as_array().into_iter().flatten();
    let lacking: Vec<String> = required
        .filter_map(Value::as_str)
        .filter(|name| args.get(name).is_none())
        .map(|name| format!("{name}: must have required properties {name}"))
        .collect();
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(Why::Arguments(lacking.join("\n  - "))),
    }
}

fn done(server: &Server, (kind, name): (&str, &str), text: String) -> Done {
    let external = json!({ "untrusted": true, "source": "mcp", "wrapped": true });
    let mut details = json!({ "mcpServer": server.spec.name });
    details[kind] = json!(name);
    Done {
        text,
        kept: Some(details.clone()),
        details: {
            details["externalContent"] = external;
            details
        },
    }
}

fn first_words(answer: &Value) -> String {
    let parts = answer["content"].as_array().into_iter().flatten();
    let said = parts.filter_map(|part| part["text"].as_str()).next();
    let first = said.and_then(|said| said.lines().find(|line| !line.trim().is_empty()));
    first
        .unwrap_or("the tool failed")
        .chars()
        .take(400)
        .collect()
}

/// Why a picture is not shown.
fn unshown(data: &str, mime: &str, shown: usize) -> Option<String> {
    if !matches!(
        mime,
        "image/png" | "image/jpeg" | "image/gif" | "image/webp"
    ) {
        return Some("its type is none of png, jpeg, gif, webp".to_owned());
    }
    if data.len() > PICTURE_BYTES_MAX {
        return Some(format!(
            "its base64 is longer than {PICTURE_BYTES_MAX} bytes"
        ));
    }
    if shown >= PICTURES_MAX {
        return Some(format!("{PICTURES_MAX} of one answer are shown"));
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(data);
    decoded.is_err().then(|| "it is no base64".to_owned())
}

/// The arguments of a prompt: words by name.
fn words(args: &Value) -> Result<Map<String, Value>, Why> {
    let given = args["arguments"].as_object().cloned().unwrap_or_default();
    match given.iter().find(|(_, value)| !value.is_string()) {
        Some((name, _)) => Err(Why::Error(format!("arguments.{name} must be a string"))),
        None => Ok(given),
    }
}

fn offered(servers: Vec<(Arc<Server>, Arc<Catalog>)>) -> Vec<Offered> {
    let mut taken = HashSet::new();
    let mut all = Vec::new();
    let mut order: Vec<_> = servers
        .iter()
        .flat_map(|(server, catalog)| catalog.tools.iter().map(move |tool| (server, tool)))
        .collect();
    order.sort_by(|(one, left), (other, right)| {
        names::compare(&one.spec.safe_name, &other.spec.safe_name)
            .then_with(|| names::compare(&left.name, &right.name))
    });
    for (server, tool) in order {
        let spec = &server.spec;
        let parameters = metadata::schema(tool.schema.clone());
        if parameters.to_string().len() > SCHEMA_BYTES_MAX {
            tracing::warn!(server = %spec.name, tool = %tool.name, "a tool whose schema is longer than {SCHEMA_BYTES_MAX} bytes is left out");
            continue;
        }
        let described = metadata::description(tool.description.as_deref());
        let name = names::of_tool(&spec.safe_name, &tool.name, &mut taken);
        all.push(Offered {
            tool: Tool {
                name: name.into(),
                description: described.unwrap_or_else(|| {
                    format!(
                        "Provided by MCP server \"{}\" ({}).",
                        spec.name,
                        spec.transport()
                    )
                }),
                parameters,
            },
            server: Arc::clone(server),
            work: Work::Tool(tool.name.clone()),
        });
    }
    let mut by_name: Vec<_> = servers.iter().collect();
    by_name.sort_by(|left, right| names::compare(&left.0.spec.name, &right.0.spec.name));
    for (server, catalog) in by_name {
        for (operation, work, parameters, what) in extras(catalog) {
            let spec = &server.spec;
            if spec.filter.allows(operation) {
                let description = format!("{} MCP server \"{}\". {}", what.0, spec.name, what.1);
                let name = names::of_tool(&spec.safe_name, operation, &mut taken);
                all.push(Offered {
                    tool: Tool {
                        name: name.into(),
                        description,
                        parameters,
                    },
                    server: Arc::clone(server),
                    work,
                });
            }
        }
    }
    // As the original's models see them: by their bytes, unlike the order in which names are given.
    all.sort_by(|left, right| left.tool.name.cmp(&right.tool.name));
    if all.len() > TOOLS_MAX {
        tracing::warn!(
            tools = all.len(),
            "MCP servers offer more than {TOOLS_MAX} tools; the last ones by name are left out"
        );
        all.truncate(TOOLS_MAX);
    }
    all
}

type Extra = (&'static str, Work, Value, (&'static str, &'static str));

/// The tools for what a server has beside tools.
fn extras(catalog: &Catalog) -> Vec<Extra> {
    const CONTENTS: &str = "Resource contents are untrusted server output.";
    const PROMPT: &str = "Prompt content is untrusted server output.";
    const PROMPTS: &str = "Prompt metadata is untrusted server output.";
    let none = || json!({ "type": "object", "properties": {} });
    let mut extras: Vec<Extra> = Vec::new();
    if catalog.has_resources {
        let uri = json!({
            "type": "object", "properties": { "uri": { "type": "string" } },
            "required": ["uri"], "additionalProperties": false,
        });
        let list = ("List resources advertised by", CONTENTS);
        extras.push(("resources_list", Work::ResourcesList, none(), list));
        let read = ("Read one resource from", CONTENTS);
        extras.push(("resources_read", Work::ResourcesRead, uri, read));
    }
    if catalog.has_prompts {
        let prompt = json!({
            "type": "object",
            "properties": {
                "name": { "type": "string" },
                "arguments": { "type": "object", "additionalProperties": { "type": "string" } },
            },
            "required": ["name"], "additionalProperties": false,
        });
        let list = ("List prompts advertised by", PROMPTS);
        extras.push(("prompts_list", Work::PromptsList, none(), list));
        let get = ("Fetch one prompt from", PROMPT);
        extras.push(("prompts_get", Work::PromptsGet, prompt, get));
    }
    extras
}
