//! Answers as a model is shown them: text and pictures.
//!
//! Source: mcp-content.ts at 2026.9.6.

use serde_json::{Map, Number, Value};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    Text(String),
    /// Base64, and its type as the server says it.
    Image {
        data: String,
        mime: String,
    },
}

/// What a called tool answered: never empty.
pub fn of_call(result: &Value) -> Vec<Block> {
    let structured = result["structuredContent"].as_object();
    let mirrored = structured.map(|structured| pretty(&Value::Object(structured.clone())));
    let mut blocks = Vec::new();
    if let Some(structured) = structured {
        let sorted = sorted(Value::Object(structured.clone()));
        blocks.push(Block::Text(format!(
            "structuredContent:\n{}",
            pretty(&sorted)
        )));
    }
    for part in result["content"].as_array().into_iter().flatten() {
        // Most servers say in a text what they say in the structure.
        let is_mirror = part["type"] == "text"
            && mirrored
                .as_ref()
                .is_some_and(|mirrored| part["text"] == mirrored.as_str());
        if !is_mirror {
            blocks.push(of_part(part));
        }
    }
    if blocks.is_empty() {
        let words = match result["isError"] == true {
            true => "MCP tool failed without returning content.",
            false => "MCP tool completed without returning content.",
        };
        blocks.push(Block::Text(words.to_owned()));
    }
    blocks
}

/// A fetched prompt: who says what.
pub fn of_prompt(result: &Value) -> Vec<Block> {
    let described = result["description"].as_str().map(str::to_owned);
    let mut blocks: Vec<Block> = described.map(Block::Text).into_iter().collect();
    for message in result["messages"].as_array().into_iter().flatten() {
        let role = message["role"].as_str().unwrap_or("user");
        blocks.push(Block::Text(format!("{role}:")));
        blocks.push(of_part(&message["content"]));
    }
    if blocks.is_empty() {
        blocks.push(Block::Text(
            "MCP tool completed without returning content.".to_owned(),
        ));
    }
    blocks
}

fn of_part(part: &Value) -> Block {
    let text = |key: &str| part[key].as_str();
    let words = match (text("type"), &part["resource"]) {
        (Some("text"), _) => text("text").map(str::to_owned),
        (Some("image"), _) => {
            if let (Some(data), Some(mime)) = (text("data"), text("mimeType")) {
                return Block::Image {
                    data: data.to_owned(),
                    mime: mime.to_owned(),
                };
            }
            None
        }
        (Some("audio"), _) => text("mimeType").map(|mime| format!("[audio {mime}]")),
        (Some("resource_link"), _) => {
            text("uri").map(|uri| match text("title").or_else(|| text("name")) {
                Some(label) => format!("[{label}] {uri}"),
                None => uri.to_owned(),
            })
        }
        (Some("resource"), resource) => resource["uri"]
            .as_str()
            .map(|uri| resource["text"].as_str().unwrap_or(uri).to_owned()),
        _ => None,
    };
    Block::Text(words.unwrap_or_else(|| plain(part.clone()).to_string()))
}

/// As JavaScript writes it: two spaces, whole numbers without a point.
pub fn pretty(value: &Value) -> String {
    format!("{:#}", plain(value.clone()))
}

fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|_| number.is_f64());
            match whole.filter(|whole| whole.fract() == 0.0 && whole.abs() < 9e15) {
                Some(whole) => Value::Number(Number::from(whole as i64)),
                None => Value::Number(number),
            }
        }
        Value::Array(values) => values.into_iter().map(plain).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, plain(value)))
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.into_iter().collect();
            fields.sort_by(|left, right| left.0.cmp(&right.0));
            let fields = fields.into_iter().map(|(key, value)| (key, sorted(value)));
            fields.collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_content_becomes_text_or_a_picture() {
        let check = |part: Value, expected: &str| {
            let blocks = of_call(&json!({ "content": [part] }));
            assert_eq!(blocks, [Block::Text(expected.to_owned())]);
        };
        check(json!({ "type": "text", "text": "hi" }), "hi");
        check(
            json!({ "type": "audio", "data": "x", "mimeType": "audio/wav" }),
            "[audio audio/wav]",
        );
        check(
            json!({ "type": "resource_link", "uri": "a:b", "name": "n" }),
            "[n] a:b",
        );
        check(
            json!({ "type": "resource", "resource": { "uri": "a:b", "text": "t" } }),
            "t",
        );
        check(
            json!({ "type": "resource", "resource": { "uri": "a:b", "blob": "AA==" } }),
            "a:b",
        );
        check(
            json!({ "type": "hologram", "n": 1.0 }),
            r#"{"type":"hologram","n":1}"#,
        );
        check(json!({ "type": "text" }), r#"{"type":"text"}"#);
        let image = json!({ "type": "image", "data": "AA==", "mimeType": "image/png" });
        let (data, mime) = ("AA==".to_owned(), "image/png".to_owned());
        assert_eq!(
            of_call(&json!({ "content": [image] })),
            [Block::Image { data, mime }]
        );
    }

    #[test]
    fn a_structure_is_shown_once_and_sorted() {
        let structured = json!({ "b": 1.0, "a": { "d": [], "c": {} } });
        let mirror = pretty(&structured);
        let result = json!({
            "structuredContent": structured,
            "content": [{ "type": "text", "text": mirror }, { "type": "text", "text": "more" }],
        });
        let expected =
            "structuredContent:\n{\n  \"a\": {\n    \"c\": {},\n    \"d\": []\n  },\n  \"b\": 1\n}";
        let texts = ["more"].map(|text| Block::Text(text.to_owned()));
        assert_eq!(of_call(&result)[0], Block::Text(expected.to_owned()));
        assert_eq!(of_call(&result)[1..], texts);
        let none = |result: Value| match of_call(&result).remove(0) {
            Block::Text(text) => text,
            Block::Image { .. } => unreachable!("nothing was answered"),
        };
        assert!(none(json!({})).contains("completed without"));
        assert!(none(json!({ "isError": true })).contains("failed without"));
    }
}
