//! Params checked as the original checks them, with its messages.
//!
//! [`check`] is the whole face: `invalid chat.send params: must have required property 'idempotencyKey'`.
//! Schemas are those of the package (`schema/params.txt`, one method per line) and of our own methods
//! (`schema/own.txt`); a schema is compiled when its method is first called. Values are read in place: what a schema does not look at is never decoded.

mod compile;
mod engine;

use std::io::Read as _;
use std::sync::{LazyLock, OnceLock};

use serde_json::value::RawValue;

use crate::error::ErrorShape;
pub use compile::Schema;

/// Checks the params of a natively answered method. Absent and `null` params count as `{}`; a method
/// without a schema accepts anything, as its handler in the original does.
///
/// # Errors
/// `INVALID_REQUEST` with the original's text. Source: `validateGatewayMethodParams` in
/// src/gateway/server-methods/validation.ts at 2026.9.6.
pub fn check(method: &str, params: Option<&RawValue>) -> Result<(), ErrorShape> {
    let Some(schema) = params_schema(method) else {
        return Ok(());
    };
    match schema.errors(params.filter(|raw| raw.get() != "null")) {
        None => Ok(()),
        Some(errors) => Err(ErrorShape::invalid_request(format!(
            "invalid {method} params: {errors}"
        ))),
    }
}

/// The package's schemas as text: the build packed them.
static PARAMS: LazyLock<String> = LazyLock::new(|| {
    let packed: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/params.zz"));
    let mut text = String::new();
    let read = flate2::read::ZlibDecoder::new(packed).read_to_string(&mut text);
    read.expect("the build packed a text");
    text
});

/// The schema of a method's params, compiled once.
pub fn params_schema(method: &str) -> Option<&'static Schema> {
    static COMPILED: OnceLock<Vec<(&'static str, &'static str, OnceLock<Schema>)>> =
        OnceLock::new();
    let table = COMPILED.get_or_init(|| {
        let lines = PARAMS.lines().chain(include_str!("schema/own.txt").lines());
        let mut table: Vec<_> = lines
            .filter_map(|line| line.split_once(' '))
            .map(|(method, schema)| (method, schema, OnceLock::new()))
            .collect();
        table.sort_unstable_by_key(|row| row.0);
        table
    });
    let at = table.binary_search_by_key(&method, |row| row.0).ok()?;
    let (name, text, compiled) = &table[at];
    Some(compiled.get_or_init(|| Schema::compile(name, text)))
}

#[cfg(test)]
mod tests;
