//! How hard a model thinks: the levels it offers, and what its provider is told of one.
//!
//! Source: docs/tools/thinking.md and the published API references; which level becomes which parameter was read off
//! the original at 2026.9.6 for each provider (tests/assistant/thinking.test.mjs asks both sides again).

use serde_json::{Value, json};

use crate::{Api, Model};

/// A level of thinking, as sessions and clients name it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    #[default]
    Off,
    Minimal,
    Low,
    Medium,
    /// The model decides for itself.
    Adaptive,
    High,
    Xhigh,
    Max,
}

impl Level {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::Adaptive => "adaptive",
            Self::High => "high",
            Self::Xhigh => "xhigh",
            Self::Max => "max",
        }
    }

    /// A level as a person writes it, with the original's other words for it.
    pub fn parse(words: &str) -> Option<Self> {
        let key = words.trim().to_lowercase();
        let joined: String = key
            .chars()
            .filter(|char| !char.is_whitespace() && !matches!(char, '_' | '-'))
            .collect();
        Some(match &*joined {
            "adaptive" | "auto" => Self::Adaptive,
            // Its runs of other agents are nothing a model is told of.
            "max" | "ultra" => Self::Max,
            "xhigh" | "extrahigh" => Self::Xhigh,
            "off" | "none" => Self::Off,
            "min" | "minimal" | "think" => Self::Minimal,
            "on" | "enable" | "enabled" | "low" | "thinkhard" => Self::Low,
            "mid" | "med" | "medium" | "thinkharder" | "harder" => Self::Medium,
            "high" | "highest" | "ultrathink" | "thinkhardest" => Self::High,
            _ => return None,
        })
    }

    /// Where a level stands among others; two may stand at the same place.
    const fn rank(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Minimal => 10,
            Self::Low => 20,
            Self::Medium | Self::Adaptive => 30,
            Self::High => 40,
            Self::Xhigh => 60,
            Self::Max => 70,
        }
    }
}

/// What `models.providers.*.models[]` says of a model's thinking: `compat`, `thinkingLevelMap`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contract {
    supports_effort: Option<bool>,
    /// Efforts that the provider takes, by its own names.
    efforts: Option<Vec<String>>,
    /// The provider's name for an effort.
    effort_map: Vec<(String, String)>,
    /// The provider's name for a level; `None`: it has no such level.
    level_map: Vec<(String, Option<String>)>,
    format: Option<String>,
    /// The field for the limit of an answer, in chat completions.
    pub(crate) max_tokens_field: Option<String>,
}

impl Contract {
    pub(crate) fn of(entry: Option<&Value>) -> Self {
        let compat = |key: &str| entry?.get("compat")?.get(key);
        let pairs = |value: Option<&Value>| -> Vec<(String, Option<String>)> {
            let map = value.and_then(Value::as_object).into_iter().flatten();
            map.map(|(key, value)| (key.to_lowercase(), value.as_str().map(str::to_owned)))
                .collect()
        };
        let word = |key| compat(key).and_then(crate::word);
        Self {
            supports_effort: compat("supportsReasoningEffort").and_then(Value::as_bool),
            efforts: compat("supportedReasoningEfforts")
                .and_then(Value::as_array)
                .map(|efforts| efforts.iter().filter_map(crate::word).collect()),
            effort_map: pairs(compat("reasoningEffortMap"))
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?)))
                .collect(),
            level_map: pairs(entry.and_then(|entry| entry.get("thinkingLevelMap"))),
            format: word("thinkingFormat"),
            max_tokens_field: word("maxTokensField"),
        }
    }

    /// `Some(None)`: the model has no such level.
    fn mapped(&self, level: Level) -> Option<Option<&str>> {
        let mut map = self.level_map.iter();
        let (_, value) = map.find(|(key, _)| key == level.name())?;
        Some(value.as_deref())
    }
}

/// The levels that a model offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Each with the word clients show for it, from the least to the most; never empty.
    levels: Vec<(Level, &'static str)>,
    default: Level,
}

const BASE: [Level; 5] = [
    Level::Off,
    Level::Minimal,
    Level::Low,
    Level::Medium,
    Level::High,
];

impl Profile {
    pub fn of(model: &Model) -> Self {
        let contract = &model.thinking;
        let (mut levels, default) = offered(model);
        if levels.len() > 1 {
            let is_openai = matches!(model.api, Api::OpenAiCompletions | Api::OpenAiResponses);
            for level in [Level::Xhigh, Level::Max] {
                let named = |list: &[String]| list.iter().any(|one| one == level.name());
                let mapped = contract.effort_map.iter();
                let has = matches!(contract.mapped(level), Some(Some(_)))
                    || contract.efforts.as_deref().is_some_and(named)
                    || (is_openai && mapped.clone().any(|(key, _)| key == level.name()));
                if has && !levels.contains(&level) {
                    levels.push(level);
                }
            }
            levels.retain(|level| contract.mapped(*level) != Some(None));
            levels.sort_by_key(|level| level.rank());
        }
        if levels.is_empty() {
            levels.push(Level::Off);
        }
        let is_binary = levels == [Level::Off, Level::Low];
        let label = |level: Level| match (is_binary, level) {
            (true, Level::Low) => "on",
            (_, level) => level.name(),
        };
        let mut own = Self {
            levels: levels
                .into_iter()
                .map(|level| (level, label(level)))
                .collect(),
            default: Level::Off,
        };
        let default = default.filter(|level| own.has(*level));
        own.default = default.unwrap_or_else(|| match model.is_reasoning {
            true => own.nearest(Level::Medium),
            false => Level::Off,
        });
        own
    }

    pub fn levels(&self) -> &[(Level, &'static str)] {
        &self.levels
    }

    /// Where nothing is configured or chosen.
    pub const fn default(&self) -> Level {
        self.default
    }

    pub fn has(&self, level: Level) -> bool {
        self.levels.iter().any(|(own, _)| *own == level)
    }

    /// A level that the model has for one that it may not have. Thinking stays thinking.
    pub fn nearest(&self, wanted: Level) -> Level {
        if self.has(wanted) {
            return wanted;
        }
        if wanted == Level::Adaptive && self.default != Level::Off {
            return self.default;
        }
        let mut thinking = self.levels.iter().map(|(level, _)| *level).rev();
        let mut least = None;
        thinking
            .find(|level| {
                if *level != Level::Off {
                    least = Some(*level);
                }
                *level != Level::Off && level.rank() <= wanted.rank()
            })
            .or(least)
            .unwrap_or_default()
    }
}

/// Levels by provider and model, and the default when they have one of their own.
fn offered(model: &Model) -> (Vec<Level>, Option<Level>) {
    let is_claude = model.provider == "anthropic" || model.api == Api::AnthropicMessages;
    let off = || (vec![Level::Off], Some(Level::Off));
    match model.provider.as_str() {
        _ if is_claude => {
            let claude = Claude::of(&model.id);
            match model.is_reasoning || claude.is_mandatory() {
                true => claude.offered(),
                false => off(),
            }
        }
        "google" if model.is_reasoning || Gemini::of(&model.id).has_levels() => {
            let mut levels = BASE.to_vec();
            levels.push(Level::Adaptive);
            if Gemini::of(&model.id) == Gemini::ThreePro {
                levels.retain(|level| !matches!(level, Level::Minimal | Level::Medium));
            }
            (levels, None)
        }
        "ollama" if model.is_reasoning => (
            vec![
                Level::Off,
                Level::Low,
                Level::Medium,
                Level::High,
                Level::Max,
            ],
            Some(Level::Off),
        ),
        _ if !model.is_reasoning => off(),
        "openai" => openai(model),
        "vllm" if model.thinking.is_switch() => (vec![Level::Off, Level::Low], Some(Level::Off)),
        _ => (BASE.to_vec(), None),
    }
}

fn openai(model: &Model) -> (Vec<Level>, Option<Level>) {
    let contract = &model.thinking;
    let is_none = contract.efforts.as_ref().is_some_and(Vec::is_empty);
    if contract.supports_effort == Some(false) || is_none {
        return match contract.format.is_some() && model.api == Api::OpenAiCompletions {
            true => (BASE.to_vec(), None),
            false => (vec![Level::Off], None),
        };
    }
    let id = model.id.to_lowercase();
    let mut levels = BASE.to_vec();
    if matches!(&*id, "gpt-6-astra" | "gpt-6-sol" | "gpt-6-luna") {
        let efforts = efforts_of(model).unwrap_or_default();
        let levels = efforts.iter().filter_map(|effort| Level::parse(effort));
        return (levels.collect(), Some(Level::Medium));
    }
    let newer = ["gpt-5.3-codex-spark", "gpt-5.4", "gpt-5.5", "gpt-5.6"];
    if newer.iter().any(|family| id.starts_with(family)) {
        levels.push(Level::Xhigh);
    }
    let is_56 = id.starts_with("gpt-5.6");
    if is_56 {
        levels.push(Level::Max);
    }
    (levels, is_56.then_some(Level::Medium))
}

impl Contract {
    /// Thinking is on or off.
    fn is_switch(&self) -> bool {
        matches!(self.format.as_deref(), Some("qwen" | "qwen-chat-template"))
    }
}

// === Anthropic ===

/// Families of Claude, as far as they think differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claude {
    /// With a budget of tokens.
    Budget,
    /// Adaptive thinking with an effort: 4.6.
    Adaptive,
    /// The same with `xhigh`; the default is off: Opus 4.7 and 4.8.
    Effort,
    /// The same; the default is high: Opus 5, Sonnet 5.
    Five,
    /// Always thinks, with an effort.
    Always(Level),
    /// Always thinks.
    Preview,
}

impl Claude {
    fn of(id: &str) -> Self {
        let mut folded = String::with_capacity(id.len());
        for char in id.trim().to_lowercase().chars() {
            match char {
                '.' | '_' | ' ' if folded.ends_with('-') => {}
                '.' | '_' | ' ' => folded.push('-'),
                char => folded.push(char),
            }
        }
        let family = folded.find("claude-").map_or(&*folded, |at| &folded[at..]);
        let is = |name: &str| {
            family
                .strip_prefix(name)
                .is_some_and(|rest| !rest.starts_with(|char: char| char.is_ascii_alphanumeric()))
        };
        if is("claude-opus-5-5") || is("opus-5-5") || is("claude-fable-5") {
            Self::Always(Level::Medium)
        } else if is("claude-mythos-5") {
            Self::Always(Level::High)
        } else if is("claude-mythos-preview") {
            Self::Preview
        } else if is("claude-opus-5") || is("claude-sonnet-5") || is("opus-5") || family == "opus" {
            Self::Five
        } else if is("claude-opus-4-7") || is("claude-opus-4-8") {
            Self::Effort
        } else if is("claude-opus-4-6") || is("claude-sonnet-4-6") {
            Self::Adaptive
        } else {
            Self::Budget
        }
    }

    const fn is_mandatory(self) -> bool {
        matches!(self, Self::Always(_) | Self::Preview)
    }

    fn offered(self) -> (Vec<Level>, Option<Level>) {
        let mut levels = BASE.to_vec();
        match self {
            Self::Budget => return (levels, None),
            Self::Adaptive => levels.extend([Level::Adaptive, Level::Max]),
            Self::Effort | Self::Five => {
                levels.extend([Level::Xhigh, Level::Adaptive, Level::Max]);
            }
            Self::Always(_) => {
                levels.extend([Level::Xhigh, Level::Max]);
                levels.retain(|level| level.rank() >= Level::Low.rank());
            }
            Self::Preview => {
                levels.push(Level::Adaptive);
                levels.retain(|level| *level != Level::Off);
            }
        }
        let default = match self {
            Self::Five => Level::High,
            Self::Always(level) => level,
            Self::Effort => Level::Off,
            _ => Level::Adaptive,
        };
        (levels, Some(default))
    }
}

/// The least budget that is taken, and what is left for the answer.
const BUDGET_MIN: u64 = 1024;

/// `thinking` and what goes with it. `resumes`: the turn goes on after calls that were made without thinking, which a
/// budget is refused for.
pub(crate) fn anthropic(body: &mut Value, model: &Model, level: Level, resumes: bool) {
    let claude = Claude::of(&model.id);
    if !model.is_reasoning && !claude.is_mandatory() {
        return;
    }
    let max_tokens = body["max_tokens"].as_u64().unwrap_or(0);
    let budget = match level {
        Level::Off | Level::Minimal => BUDGET_MIN,
        Level::Low => 2048,
        Level::Medium | Level::Adaptive => 8192,
        _ => 16_384,
    }
    .min(max_tokens.saturating_sub(BUDGET_MIN))
    .max(BUDGET_MIN);
    let off = level == Level::Off && !claude.is_mandatory();
    let thinking = match claude {
        _ if off => json!({ "type": "disabled" }),
        Claude::Budget if resumes || budget >= max_tokens => json!({ "type": "disabled" }),
        Claude::Budget => json!({ "type": "enabled", "budget_tokens": budget }),
        _ => json!({ "type": "adaptive", "display": "summarized" }),
    };
    if thinking["type"] == "adaptive" {
        let has_xhigh = !matches!(claude, Claude::Adaptive | Claude::Preview);
        let effort = match level {
            Level::Off | Level::Minimal | Level::Low => "low",
            Level::Medium => "medium",
            Level::Xhigh if has_xhigh => "xhigh",
            Level::Max if claude != Claude::Preview => "max",
            _ => "high",
        };
        body["output_config"] = json!({ "effort": effort });
    }
    if thinking["type"] != "disabled" {
        // Refused beside thinking.
        for name in ["temperature", "top_p"] {
            body.as_object_mut().and_then(|body| body.remove(name));
        }
    }
    body["thinking"] = thinking;
}

// === Gemini ===

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gemini {
    TwoFivePro,
    /// Flash and Flash-Lite.
    TwoFiveFlash,
    ThreePro,
    Three,
    Other,
}

impl Gemini {
    fn of(id: &str) -> Self {
        let id = id.to_lowercase();
        let Some(at) = id.find("gemini-") else {
            return Self::Other;
        };
        let version = &id[at + "gemini-".len()..];
        match (version.starts_with("2.5"), version.starts_with('3')) {
            (true, _) if version.contains("pro") => Self::TwoFivePro,
            (true, _) => Self::TwoFiveFlash,
            (_, true) if version.contains("pro") => Self::ThreePro,
            (_, true) => Self::Three,
            _ => Self::Other,
        }
    }

    fn has_levels(self) -> bool {
        matches!(self, Self::ThreePro | Self::Three)
    }
}

/// `thinkingConfig`, into `generationConfig`.
pub(crate) fn gemini(config: &mut Value, model: &Model, level: Level) {
    let family = Gemini::of(&model.id);
    if !model.is_reasoning && !family.has_levels() {
        return;
    }
    let thinks = level != Level::Off;
    let budget: Option<i64> = match (family, level) {
        (Gemini::ThreePro | Gemini::Three, _) => None,
        // It can't be kept from thinking.
        (Gemini::TwoFivePro, Level::Off) => return,
        (_, Level::Off) => Some(0),
        (Gemini::Other, _) => None,
        (_, Level::Adaptive) => Some(-1),
        (_, Level::Minimal) => Some(128),
        (_, Level::Low) => Some(2048),
        (_, Level::Medium) => Some(8192),
        (Gemini::TwoFivePro, _) => Some(32_768),
        _ => Some(24_576),
    };
    let word = match (family, level) {
        (_, Level::Adaptive) => None,
        (Gemini::ThreePro, Level::Off | Level::Minimal | Level::Low) => Some("LOW"),
        (Gemini::Three, Level::Off | Level::Minimal) => Some("MINIMAL"),
        (Gemini::Three, Level::Low) => Some("LOW"),
        (Gemini::Three, Level::Medium) => Some("MEDIUM"),
        (Gemini::ThreePro | Gemini::Three, _) => Some("HIGH"),
        _ => None,
    };
    let mut thinking = json!({});
    if thinks {
        thinking["includeThoughts"] = json!(true);
    }
    if let Some(budget) = budget {
        thinking["thinkingBudget"] = json!(budget);
    }
    if let Some(word) = word {
        thinking["thinkingLevel"] = json!(word);
    }
    config["thinkingConfig"] = thinking;
}

// === Ollama ===

/// `think`.
pub(crate) fn ollama(body: &mut Value, level: Level) {
    body["think"] = match level {
        Level::Off => json!(false),
        Level::Minimal | Level::Low => json!("low"),
        Level::Medium | Level::Adaptive => json!("medium"),
        _ => json!("high"),
    };
}

// === OpenAI and what is compatible with it ===

const EFFORTS: [&str; 6] = ["minimal", "low", "medium", "high", "xhigh", "max"];

/// The efforts that a model takes; `None`: nobody says.
fn efforts_of(model: &Model) -> Option<Vec<String>> {
    let contract = &model.thinking;
    if contract.supports_effort == Some(false) {
        return Some(Vec::new());
    }
    if contract.efforts.is_some() {
        return contract.efforts.clone();
    }
    let id = model.id.to_lowercase();
    let version = id.strip_prefix("gpt-5")?;
    let minor = version
        .strip_prefix('.')
        .and_then(|rest| rest.chars().next())
        .and_then(|digit| digit.to_digit(10));
    let takes_max = model.api == Api::OpenAiResponses;
    let has = |part: &str| version.split('-').any(|word| word == part);
    let list: &[&str] = match minor {
        Some(1) if version == ".1-codex-mini" => &["medium"],
        Some(1) if version == ".1-codex-max" => &["none", "medium", "high", "xhigh"],
        _ if has("codex") => &["low", "medium", "high", "xhigh"],
        None if version == "-pro" => &["high"],
        Some(2..=9) if has("pro") => &["medium", "high", "xhigh"],
        Some(6) if takes_max => &["none", "low", "medium", "high", "xhigh", "max"],
        Some(2..=9) => &["none", "low", "medium", "high", "xhigh"],
        Some(1) => &["none", "low", "medium", "high"],
        Some(_) => return None,
        None if version.is_empty() || version.starts_with('-') => {
            &["minimal", "low", "medium", "high"]
        }
        None => return None,
    };
    Some(list.iter().map(|word| (*word).to_owned()).collect())
}

/// The provider's word for a level; `None`: it is told nothing.
fn effort_of(model: &Model, level: Level) -> Option<String> {
    let contract = &model.thinking;
    let name = match level {
        Level::Off => "none",
        // What is not told is the model's own choice.
        Level::Adaptive => "medium",
        level => level.name(),
    };
    let by_level = contract.mapped(level).flatten();
    let mut map = contract.effort_map.iter();
    let by_effort = map.find(|(key, _)| key == name || key == level.name());
    let word = by_level.or(by_effort.map(|(_, word)| &**word));
    if let Some(word) = word {
        return Some(word.to_owned());
    }
    let Some(efforts) = efforts_of(model) else {
        return Some(name.to_owned());
    };
    let has = |word: &str| efforts.iter().any(|one| one == word);
    if level == Level::Off {
        return ["none", "off"]
            .into_iter()
            .find(|word| has(word))
            .map(str::to_owned);
    }
    let rank = EFFORTS.iter().position(|effort| *effort == name)?;
    let below = EFFORTS[..=rank].iter().rev().find(|effort| has(effort));
    let any = || EFFORTS.iter().find(|effort| has(effort));
    below.or_else(any).map(|effort| (*effort).to_owned())
}

/// The provider itself, and nobody who speaks like it.
fn is_openai_itself(model: &Model) -> bool {
    let host = model.base_url.strip_prefix("https://").unwrap_or_default();
    host.starts_with("api.openai.com") || host.starts_with("eu.api.openai.com")
}

/// Into a chat completion: `reasoning_effort`, or what `compat.thinkingFormat` says.
pub(crate) fn chat(body: &mut Value, model: &Model, level: Level) {
    if !model.is_reasoning {
        return;
    }
    let contract = &model.thinking;
    let thinks = level != Level::Off;
    let is_router = model.provider == "openrouter";
    let takes_effort = contract
        .supports_effort
        .unwrap_or_else(|| is_openai_itself(model));
    match contract.format.as_deref() {
        Some("qwen") => body["enable_thinking"] = json!(thinks),
        Some("qwen-chat-template") => {
            body["chat_template_kwargs"] = json!({ "enable_thinking": thinks });
        }
        Some("together") => body["reasoning"] = json!({ "enabled": thinks }),
        format if format == Some("openrouter") || (format.is_none() && is_router) => {
            if let Some(effort) = effort_of(model, level) {
                body["reasoning"] = json!({ "effort": effort });
            }
        }
        _ if takes_effort => {
            if let Some(effort) = effort_of(model, level) {
                body["reasoning_effort"] = json!(effort);
            }
        }
        _ => {}
    }
}

/// `reasoning` and what goes with it, into a response.
pub(crate) fn responses(body: &mut Value, model: &Model, level: Level) {
    if !model.is_reasoning || model.thinking.supports_effort == Some(false) {
        return;
    }
    let effort = effort_of(model, level);
    if level == Level::Off {
        // Older models and other servers refuse the word.
        let id = model.id.to_lowercase();
        let takes_none = is_openai_itself(model) || id.starts_with("gpt-5.6");
        if let Some(effort) = effort.filter(|_| takes_none && efforts_of(model).is_some()) {
            body["reasoning"] = json!({ "effort": effort });
        }
        return;
    }
    let mut reasoning = json!({ "summary": "auto" });
    if let Some(effort) = effort {
        reasoning["effort"] = json!(effort);
    }
    body["reasoning"] = reasoning;
    // What it thought is sent back with its calls: nothing is kept at the provider.
    body["include"] = json!(["reasoning.encrypted_content"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, Prompt, Sampling, anthropic, gemini, ollama, openai, responses};

    fn body_of(model: &Model, level: Level) -> Value {
        let prompt = Prompt {
            messages: vec![Message::text("user", "hi")],
            sampling: Sampling {
                thinking: Some(level),
                ..Sampling::default()
            },
            ..Prompt::default()
        };
        match model.api {
            Api::AnthropicMessages => anthropic::body_of(model, &prompt),
            Api::GoogleGenerativeAi => gemini::body_of(model, &prompt),
            Api::Ollama => ollama::body_of(model, &prompt),
            Api::OpenAiCompletions => openai::body_of(model, &prompt),
            Api::OpenAiResponses => responses::body_of(model, &prompt),
        }
    }

    /// Of a request, what it says of thinking.
    fn said(body: &Value) -> Value {
        let mut said = json!({});
        for name in [
            "thinking",
            "output_config",
            "reasoning",
            "include",
            "reasoning_effort",
            "enable_thinking",
            "chat_template_kwargs",
            "think",
        ] {
            if let Some(value) = body.get(name) {
                said[name] = value.clone();
            }
        }
        if let Some(config) = body.pointer("/generationConfig/thinkingConfig") {
            said["thinkingConfig"] = config.clone();
        }
        said
    }

    /// As the original offers and asks; `record-cases.mjs` beside them makes the cases again.
    #[test]
    fn levels_and_requests_are_the_original_s() {
        let cases: Vec<Value> =
            serde_json::from_str(include_str!("thinking/cases.json")).expect("cases");
        assert!(cases.len() > 40);
        for case in cases {
            let (provider, id) = (case["provider"].as_str(), case["model"]["id"].as_str());
            let name = format!("{}/{}", provider.expect("a name"), id.expect("an id"));
            let settings = json!({
                "api": case["api"], "baseUrl": "http://127.0.0.1:9", "models": [case["model"]],
            });
            let providers = json!({ provider.expect("a name"): settings });
            let config = json!({ "models": { "providers": providers } });
            let model = Model::resolve(&config, "main", Some(&name), &|_| None).expect("a model");
            let profile = Profile::of(&model);
            let levels: Vec<&str> = profile.levels().iter().map(|(own, _)| own.name()).collect();
            assert_eq!(json!(levels), case["levels"], "{name}");
            assert_eq!(profile.default().name(), case["default"], "{name}");
            for (level, asked) in case["asked"].as_object().expect("requests") {
                let body = body_of(&model, Level::parse(level).expect("a level"));
                assert_eq!(said(&body), *asked, "{name} {level}");
            }
        }
    }

    #[test]
    fn what_a_model_lacks_is_the_nearest_it_has() {
        let settings = json!({ "baseUrl": "http://h", "models": [
            { "id": "thinks", "reasoning": true }, { "id": "plain" },
        ] });
        let config = json!({
            "models": { "providers": { "p": settings } },
            "agents": {
                "defaults": { "thinkingDefault": "xhigh", "models": { "p/thinks": { "params": { "thinking": "low" } } } },
                "entries": { "a": { "thinkingDefault": "minimal" }, "b": { "models": { "p/thinks": { "params": { "thinking": false } } } } },
            },
        });
        let of = |id: &str| Model::resolve(&config, "main", Some(id), &|_| None).expect("a model");
        let (thinks, plain) = (of("p/thinks"), of("p/plain"));
        let profile = Profile::of(&thinks);
        assert_eq!(profile.nearest(Level::Max), Level::High);
        assert_eq!(profile.nearest(Level::Adaptive), Level::Medium);
        assert_eq!(Profile::of(&plain).nearest(Level::High), Level::Off);
        let default = |agent: &str| thinks.thinking_default(&config, agent);
        assert_eq!(default("main"), Level::Low);
        assert_eq!(default("a"), Level::Minimal);
        assert_eq!(default("b"), Level::Off);
        assert_eq!(plain.thinking_default(&config, "main"), Level::Off);
    }
}
