//! A chat completion as it is asked for: checked, and made one turn of an agent.

use agent::{Sampling, Tool, ToolCall};
use serde_json::{Value, json};

use super::super::{Image, Input};
use super::Refusal;
use crate::config::type_name;

/// Pictures of the last message.
const IMAGES_MAX: usize = 8;
const IMAGE_BYTES_MAX: usize = 20 << 20;
const IMAGE_ONLY: &str = "User sent image(s) with no text.";
const HISTORY: &str = "[Chat messages since your last reply - for context]";
const CURRENT: &str = "[Current message - respond to this]";

/// What is asked for, but the conversation.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) user: String,
    pub(super) is_stream: bool,
    pub(super) include_usage: bool,
    pub(super) sampling: Sampling,
    pub(super) tools: CallerTools,
}

impl Asked {
    /// # Errors
    /// The first thing that is wrong with it, in the original's words.
    pub(super) fn of(body: &Value) -> Result<Self, Refusal> {
        if !body.is_object() {
            return Err(Refusal::invalid(format!(
                ": Invalid input: expected object, received {}",
                type_name(body)
            )));
        }
        types(body)?;
        Ok(Self {
            model: body["model"].as_str().unwrap_or("openclaw").to_owned(),
            user: body["user"].as_str().unwrap_or_default().to_owned(),
            is_stream: body["stream"] == true,
            include_usage: body["stream_options"]["include_usage"] == true,
            sampling: sampling(body)?,
            tools: CallerTools::of(body)?,
        })
    }
}

/// More tools than any client has are refused.
const TOOLS_MAX: usize = 128;

/// What the answer has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Must {
    CallAny,
    Call(String),
}

impl Must {
    /// Why an answer is none. `None`: it is one.
    pub(super) fn lacks(must: Option<&Self>, calls: &[ToolCall]) -> Option<String> {
        match must {
            Some(Self::CallAny) if calls.is_empty() => {
                Some("tool_choice=required was not satisfied by the agent response".to_owned())
            }
            Some(Self::Call(name)) if calls.iter().all(|call| call.name != *name) => Some(format!(
                "tool_choice required a {name} tool call, but the agent did not produce one"
            )),
            _ => None,
        }
    }
}

/// The caller's tools, as far as the agent may call them.
#[derive(Debug, Default)]
pub(super) struct CallerTools {
    pub(super) tools: Vec<Tool>,
    pub(super) must: Option<Must>,
}

impl CallerTools {
    /// `tools` and `tool_choice`, with a function's fields in `function` (chat completions) or beside it (responses).
    ///
    /// # Errors
    /// What is wrong with them, in the original's words. Source: src/gateway/openai-tool-choice.ts at 2026.9.6.
    pub(super) fn of(body: &Value) -> Result<Self, Refusal> {
        let wrong = |why: &str| Refusal::invalid(format!("Invalid tools/tool_choice: {why}"));
        let field = |tool: &Value, name: &str| match tool.get("function") {
            Some(function) if function.is_object() => function[name].clone(),
            _ => tool[name].clone(),
        };
        let name = |tool: &Value| {
            let name = field(tool, "name")
                .as_str()
                .unwrap_or_default()
                .trim()
                .to_owned();
            (!name.is_empty()).then_some(name)
        };
        let mut tools = Vec::new();
        for tool in body["tools"].as_array().into_iter().flatten() {
            if tool["type"] != "function" {
                return Err(wrong("only function tools are supported"));
            }
            let Some(name) = name(tool) else {
                return Err(wrong("tool.function.name is required"));
            };
            let parameters = match field(tool, "parameters") {
                parameters if parameters.is_object() => parameters,
                _ => json!({ "type": "object", "properties": {} }),
            };
            tools.push(Tool {
                name: name.into(),
                description: field(tool, "description")
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                parameters,
            });
        }
        if tools.len() > TOOLS_MAX {
            return Err(wrong(&format!("more than {TOOLS_MAX} tools")));
        }
        let must = match &body["tool_choice"] {
            Value::Null => None,
            Value::String(word) if word == "auto" => None,
            Value::String(word) if word == "none" => return Ok(Self::default()),
            Value::String(word) if word == "required" => Some(Must::CallAny),
            Value::Object(choice) => match choice.get("type").and_then(Value::as_str) {
                Some("function") => {
                    let name = name(&body["tool_choice"]);
                    Some(Must::Call(name.ok_or_else(|| {
                        wrong("tool_choice.function.name is required")
                    })?))
                }
                Some(other) => return Err(wrong(&format!("tool_choice {other} is not supported"))),
                None => return Err(wrong("unsupported tool_choice type")),
            },
            _ => return Err(wrong("tool_choice must be a string or object")),
        };
        match &must {
            Some(Must::Call(name)) => {
                tools.retain(|tool| tool.name == *name);
                if tools.is_empty() {
                    return Err(wrong(&format!(
                        "tool_choice requested unknown tool: {name}"
                    )));
                }
            }
            Some(Must::CallAny) if tools.is_empty() => {
                return Err(wrong("tool_choice=required but no tools were provided"));
            }
            _ => {}
        }
        Ok(Self { tools, must })
    }

    /// What the agent is told of it.
    fn words(&self) -> Option<String> {
        match self.must.as_ref()? {
            Must::CallAny => {
                let names: Vec<&str> = self.tools.iter().map(|tool| &*tool.name).collect();
                Some(format!(
                    "Call one of these tools before you answer: {}.",
                    names.join(", ")
                ))
            }
            Must::Call(name) => Some(format!("Call the tool {name} before you answer.")),
        }
    }
}

/// The conversation, as one message.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) message: String,
    pub(super) system: Option<String>,
    pub(super) images: Vec<Image>,
}

impl Said {
    /// A turn with this said, in the conversation of `key`.
    pub(super) fn into_input(
        self,
        run_id: String,
        (agent, key): (String, String),
        model: Option<String>,
        sampling: Sampling,
        tools: CallerTools,
    ) -> Input {
        let system = [self.system, tools.words()];
        let system: Vec<String> = system.into_iter().flatten().collect();
        Input {
            run_id,
            session_key: key,
            agent,
            message: self.message,
            images: self.images,
            extra_system: (!system.is_empty()).then(|| system.join("\n\n")),
            caller_tools: tools.tools,
            is_chat: false,
            queue: false,
            client: None,
            model,
            sampling,
        }
    }

    /// # Errors
    /// As for [`Asked::of`].
    pub(super) fn of(body: &Value) -> Result<Self, Refusal> {
        Self::in_messages(&body["messages"], "messages")
    }

    /// `place`: the key that the client wrote the conversation under.
    ///
    /// # Errors
    /// As for [`Asked::of`].
    pub(super) fn in_messages(messages: &Value, place: &str) -> Result<Self, Refusal> {
        let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
        let images = images(messages)?;
        let (message, system) = prompt(messages, !images.is_empty());
        if message.is_empty() && images.is_empty() {
            let why = format!("Missing user message in `{place}`.");
            return Err(Refusal::invalid(why));
        }
        Ok(Self {
            message,
            system,
            images,
        })
    }
}

/// The agent that a `model` names: `Some(None)` is the default one, `None` is no agent.
#[expect(
    clippy::option_option,
    reason = "no agent, the default one, a named one"
)]
pub(super) fn target(model: &str) -> Option<Option<String>> {
    let model = model.trim();
    let lower = model.to_lowercase();
    if lower == "openclaw" || lower == "openclaw/default" {
        return Some(None);
    }
    let id = ["openclaw/", "openclaw:", "agent:"]
        .iter()
        .find_map(|start| lower.strip_prefix(start))?;
    let is_id = !id.is_empty()
        && id.len() <= 64
        && id.starts_with(|first: char| first.is_ascii_alphanumeric())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    is_id.then(|| Some(id.to_owned()))
}

/// Source: `OpenAiChatCompletionRequestSchema`, and zod's words for what is not of it.
fn types(body: &Value) -> Result<(), Refusal> {
    let wrong = |name: &str, expected: &str, value: &Value| {
        Refusal::invalid(format!(
            "{name}: Invalid input: expected {expected}, received {}",
            type_name(value)
        ))
    };
    let check = |name: &str, expected: &str, may_be_null: bool, good: fn(&Value) -> bool| match body
        .get(name)
    {
        None => Ok(()),
        Some(Value::Null) if may_be_null => Ok(()),
        Some(value) if good(value) => Ok(()),
        Some(value) => Err(wrong(name, expected, value)),
    };
    check("model", "string", false, Value::is_string)?;
    check("stream", "boolean", true, Value::is_boolean)?;
    check("stream_options", "object", true, Value::is_object)?;
    check("tools", "array", false, Value::is_array)?;
    check("messages", "array", false, Value::is_array)?;
    check("user", "string", false, Value::is_string)?;
    for name in [
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "seed",
    ] {
        check(name, "number", true, Value::is_number)?;
    }
    Ok(())
}

fn sampling(body: &Value) -> Result<Sampling, Refusal> {
    let cap = |name: &str| match &body[name] {
        Value::Null => Ok(None),
        value => match value.as_u64() {
            Some(tokens) if tokens > 0 => Ok(Some(tokens)),
            _ => Err(Refusal::invalid(format!(
                "{name} must be a positive safe integer"
            ))),
        },
    };
    let between = |name: &str, low: f64, high: f64, words: &str| match body[name].as_f64() {
        None => Ok(None),
        Some(value) if (low..=high).contains(&value) => Ok(Some(value)),
        Some(_) => Err(Refusal::invalid(format!(
            "`{name}` must be between {words}."
        ))),
    };
    let (new, old) = (cap("max_completion_tokens")?, cap("max_tokens")?);
    let response_format = match &body["response_format"] {
        Value::Null => None,
        format if !format.is_object() => {
            return Err(Refusal::invalid(
                "Invalid response_format: response_format must be an object",
            ));
        }
        format
            if !matches!(
                format["type"].as_str(),
                Some("text" | "json_object" | "json_schema")
            ) =>
        {
            return Err(Refusal::invalid(
                "Invalid response_format: response_format.type must be text, json_object, or json_schema",
            ));
        }
        format => Some(format.clone()),
    };
    let stop = stops(&body["stop"])?;
    let (temperature, top_p) = (
        between("temperature", 0.0, 2.0, "0 and 2")?,
        between("top_p", 0.0, 1.0, "0 and 1")?,
    );
    let frequency_penalty = between("frequency_penalty", -2.0, 2.0, "-2.0 and 2.0")?;
    let presence_penalty = between("presence_penalty", -2.0, 2.0, "-2.0 and 2.0")?;
    let seed = match &body["seed"] {
        Value::Null => None,
        seed => Some(
            seed.as_i64()
                .ok_or_else(|| Refusal::invalid("`seed` must be an integer."))?,
        ),
    };
    Ok(Sampling {
        max_tokens: new.or(old),
        temperature,
        top_p,
        frequency_penalty,
        presence_penalty,
        seed,
        stop,
        response_format,
        thinking: None,
    })
}

fn stops(value: &Value) -> Result<Vec<String>, Refusal> {
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::String(one) => vec![Value::from(one.as_str())],
        Value::Array(many) => many.clone(),
        _ => return Err(Refusal::invalid("stop: Invalid input")),
    };
    if list.len() > 4 {
        return Err(Refusal::invalid(
            "Invalid stop: stop supports at most 4 sequences",
        ));
    }
    list.iter()
        .map(|one| match one.as_str() {
            None => Err(Refusal::invalid("stop: Invalid input")),
            Some("") => Err(Refusal::invalid(
                "Invalid stop: stop entries must be non-empty strings",
            )),
            Some(one) => Ok(one.to_owned()),
        })
        .collect()
}

/// Pictures of the last message of a person; of addresses only `data:` is read, as the original does by default.
fn images(messages: &[Value]) -> Result<Vec<Image>, Refusal> {
    let refuse = || Refusal::invalid("Invalid image_url content in `messages`.");
    let last = messages
        .iter()
        .rfind(|message| matches!(role(message), "user" | "tool" | "function"));
    let Some(last) = last.filter(|message| role(message) == "user") else {
        return Ok(Vec::new());
    };
    let mut images = Vec::new();
    let mut bytes = 0;
    for part in last["content"].as_array().into_iter().flatten() {
        if part["type"] != "image_url" {
            continue;
        }
        let url = part["image_url"]["url"]
            .as_str()
            .or_else(|| part["image_url"].as_str());
        let (head, data) = url
            .and_then(|url| url.trim().strip_prefix("data:"))
            .and_then(|rest| rest.split_once(','))
            .ok_or_else(refuse)?;
        let is_base64 = head
            .split(';')
            .any(|word| word.trim().eq_ignore_ascii_case("base64"));
        let mime = head
            .split(';')
            .map(str::trim)
            .find(|word| word.starts_with("image/"));
        let (true, Some(mime)) = (is_base64 && !data.trim().is_empty(), mime) else {
            return Err(refuse());
        };
        bytes += data.len() / 4 * 3;
        if images.len() == IMAGES_MAX || bytes > IMAGE_BYTES_MAX {
            return Err(refuse());
        }
        images.push(Image {
            data: data.to_owned(),
            mime: mime.to_owned(),
        });
    }
    Ok(images)
}

fn role(message: &Value) -> &str {
    message["role"].as_str().unwrap_or_default().trim()
}

/// The message of this turn, earlier ones in front of it as context, and what systems said. Source: `buildAgentPrompt`.
fn prompt(messages: &[Value], has_images: bool) -> (String, Option<String>) {
    let last = messages
        .iter()
        .rposition(|message| matches!(role(message), "user" | "tool" | "function"));
    let mut systems = Vec::new();
    let mut entries: Vec<(&str, String, String)> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let role = role(message);
        let said = words(&message["content"]);
        let content = said.as_deref().map(str::trim).unwrap_or_default();
        if matches!(role, "system" | "developer") {
            if !content.is_empty() {
                systems.push(content.to_owned());
            }
            continue;
        }
        let role = match role {
            "function" => "tool",
            "user" | "assistant" | "tool" => role,
            _ => continue,
        };
        let mut parts = Vec::new();
        if content.is_empty() && role == "user" && has_images && Some(index) == last {
            parts.push(IMAGE_ONLY.to_owned());
        } else if !content.is_empty() {
            parts.push(content.to_owned());
        }
        if role == "assistant" {
            parts.extend(calls(&message["tool_calls"]));
        }
        let text = |name: &str| message[name].as_str().unwrap_or_default().trim();
        let (name, call) = (text("name"), text("tool_call_id"));
        let is_result = role == "tool" && !(call.is_empty() && name.is_empty()) && said.is_some();
        if parts.is_empty() && !is_result {
            continue;
        }
        let sender = match (role, call, name) {
            ("assistant", ..) => "Assistant".to_owned(),
            ("user", ..) => "User".to_owned(),
            (_, "", "") => "Tool".to_owned(),
            (_, "", name) => format!("Tool:{name}"),
            (_, call, _) => format!("Tool:{call}"),
        };
        entries.push((role, sender, parts.join("\n")));
    }
    let system = (!systems.is_empty()).then(|| systems.join("\n\n"));
    let at = entries
        .iter()
        .rposition(|(role, ..)| *role != "assistant")
        .or_else(|| entries.len().checked_sub(1));
    let Some(at) = at else {
        return (String::new(), system);
    };
    let (role, sender, body) = &entries[at];
    let before: Vec<String> = entries[..at]
        .iter()
        .map(|(_, sender, body)| format!("{sender}: {body}"))
        .collect();
    if before.is_empty() && *role != "tool" {
        return (body.clone(), system);
    }
    let now = format!("{sender}: {body}");
    let before = before.join("\n");
    let message = match before.trim().is_empty() {
        true => now,
        false => [HISTORY, &before, "", CURRENT, &now].join("\n"),
    };
    (message, system)
}

/// The text of a content; `None` when it is none.
fn words(content: &Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let texts: Vec<Option<&str>> = parts
                .iter()
                .map(|part| match part["type"].as_str() {
                    Some("text" | "input_text") if part["text"].is_string() => {
                        part["text"].as_str()
                    }
                    _ => part["input_text"].as_str(),
                })
                .collect();
            let joined: Vec<&str> = texts
                .iter()
                .filter_map(|text| text.filter(|text| !text.is_empty()))
                .collect();
            let joined = joined.join("\n");
            (!joined.trim().is_empty() || texts.iter().all(Option::is_some)).then_some(joined)
        }
        _ => None,
    }
}

fn calls(calls: &Value) -> Vec<String> {
    let calls = calls.as_array().into_iter().flatten();
    calls
        .filter_map(|call| {
            let name = call["function"]["name"].as_str()?.trim();
            let arguments = match &call["function"]["arguments"] {
                Value::String(text) => text.clone(),
                Value::Null => "{}".to_owned(),
                other => other.to_string(),
            };
            let id = call["id"].as_str().unwrap_or_default();
            Some(format!(
                "tool_call id={id} name={name} arguments={arguments}"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_names_an_agent() {
        assert_eq!(target("openclaw"), Some(None));
        assert_eq!(target(" OpenClaw/Default "), Some(None));
        assert_eq!(target("openclaw/ops-2"), Some(Some("ops-2".to_owned())));
        assert_eq!(target("openclaw:Ops"), Some(Some("ops".to_owned())));
        assert_eq!(target("agent:ops"), Some(Some("ops".to_owned())));
        for no in [
            "gpt-4",
            "openclaw/",
            "openclaw/-x",
            "openclaw/a b",
            "agent:",
            &format!("openclaw/{}", "a".repeat(65)),
        ] {
            assert_eq!(target(no), None, "{no}");
        }
    }

    #[test]
    fn earlier_messages_are_context() {
        let one = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "hi" }]);
        let prompt_of = |messages: &Value| prompt(messages.as_array().expect("a list"), false);
        assert_eq!(
            prompt_of(&one),
            ("hi".to_owned(), Some("Be brief.".to_owned()))
        );
        let many = json!([
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": "b", "tool_calls": [{ "id": "1", "function": { "name": "f", "arguments": "{}" } }] },
            { "role": "tool", "tool_call_id": "1", "content": "" },
            { "role": "user", "content": [{ "type": "text", "text": "c" }, { "type": "text", "text": "d" }] },
        ]);
        let expected = format!(
            "{HISTORY}\nUser: a\nAssistant: b\ntool_call id=1 name=f arguments={{}}\nTool:1: \n\n{CURRENT}\nUser: c\nd"
        );
        assert_eq!(prompt_of(&many), (expected, None));
        assert_eq!(
            prompt_of(&json!([{ "role": "nobody", "content": "x" }])),
            (String::new(), None)
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_the_original_s_words() {
        let check = |body: Value, words: &str| {
            let said = Asked::of(&body).and_then(|_asked| Said::of(&body));
            let refusal = said.expect_err("refused");
            assert_eq!(
                (refusal.status.as_u16(), refusal.message.as_str()),
                (400, words),
                "{body}"
            );
        };
        check(json!({}), "Missing user message in `messages`.");
        check(
            json!({ "stream": "yes" }),
            "stream: Invalid input: expected boolean, received string",
        );
        check(
            json!({ "temperature": 3 }),
            "`temperature` must be between 0 and 2.",
        );
        check(json!({ "seed": 1.5 }), "`seed` must be an integer.");
        check(
            json!({ "stop": ["a", ""] }),
            "Invalid stop: stop entries must be non-empty strings",
        );
        check(
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "http://x/y.png" } }] }] }),
            "Invalid image_url content in `messages`.",
        );
    }

    #[test]
    fn the_caller_s_tools_are_told_apart_from_what_is_none() {
        let chat = json!({ "tools": [
            { "type": "function", "function": { "name": "a", "description": "A", "parameters": { "type": "object" } } },
            { "type": "function", "name": "b" },
        ] });
        let of = |choice: Value| {
            let mut body = chat.clone();
            body["tool_choice"] = choice;
            CallerTools::of(&body).map_err(|refusal| refusal.message)
        };
        let all = of(Value::Null).expect("fine");
        assert_eq!(
            all.tools.iter().map(|tool| &*tool.name).collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!((all.must.as_ref(), all.words()), (None, None));
        assert!(of(json!("none")).expect("fine").tools.is_empty());
        let one = of(json!({ "type": "function", "function": { "name": "b" } })).expect("fine");
        assert_eq!(
            (one.tools.len(), one.must.clone()),
            (1, Some(Must::Call("b".to_owned())))
        );
        let called = [ToolCall {
            name: "b".to_owned(),
            ..ToolCall::default()
        }];
        assert_eq!(Must::lacks(one.must.as_ref(), &called), None);
        assert!(
            Must::lacks(one.must.as_ref(), &[])
                .is_some_and(|why| why.contains("a b tool call") || why.contains("required a b"))
        );
        assert!(Must::lacks(Some(&Must::CallAny), &[]).is_some());
        for (choice, why) in [
            (
                json!({ "type": "function", "function": { "name": "c" } }),
                "tool_choice requested unknown tool: c",
            ),
            (
                json!({ "type": "custom" }),
                "tool_choice custom is not supported",
            ),
            (json!(7), "tool_choice must be a string or object"),
        ] {
            assert_eq!(
                of(choice).expect_err(why),
                format!("Invalid tools/tool_choice: {why}")
            );
        }
        let none = CallerTools::of(&json!({ "tool_choice": "required" }));
        assert!(
            none.expect_err("no tools")
                .message
                .ends_with("but no tools were provided")
        );
    }
}
