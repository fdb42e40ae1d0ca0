//! How providers say that a request is longer than their model takes: each in its own words, under 400 or 413.

/// What such refusals say of the limit, in lower case. Source: answers of the providers and servers named beside each, as
/// docs/concepts/compaction.md of the package at 2026.9.6 lists them.
const NAMED: [&str; 22] = [
    "maximum context length",            // OpenAI, vLLM, OpenRouter
    "context_length_exceeded",           // OpenAI
    "context length exceeded",           // Ollama
    "reduce the length of the messages", // Groq
    "exceeds the context window",        // OpenAI responses
    "prompt is too long",                // Anthropic
    "request_too_large",                 // Anthropic
    "exceed context limit",              // Anthropic
    "input token count",                 // Gemini, Bedrock
    "maximum number of tokens",          // Gemini, Bedrock
    "input is too long",                 // Bedrock
    "available context size",            // llama.cpp
    "context size has been exceeded",    // LM Studio
    "configured context size",           // llama.cpp
    "greater than the context length",   // LM Studio
    "context window exceeds limit",      // MiniMax
    "exceeded model token limit",        // Moonshot
    "max tokens allowed",                // Mistral
    "maximum prompt length",             // xAI
    "prompt too long",                   // Ollama
    "maximum allowed input length",      // DeepInfra
    "model_context_window_exceeded",     // Anthropic, as a stop reason
];

/// Limits of tokens a minute, in the same words otherwise.
const RATES: [&str; 4] = ["tokens per minute", "tokens per day", "tpm", "rate limit"];

pub(crate) fn is_named(message: &str) -> bool {
    let message = message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    has(&NAMED) && !has(&RATES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_told_from_what_comes_too_fast() {
        for message in [
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens.",
            "prompt is too long: 210000 tokens > 200000 maximum",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            "the request exceeds the available context size, try increasing it",
        ] {
            assert!(is_named(message), "{message}");
        }
        for message in [
            "Rate limit reached: Limit 30000 tokens per minute (TPM), Requested 40000: reduce the length of the messages",
            "invalid value for max_tokens",
            "model not found",
        ] {
            assert!(!is_named(message), "{message}");
        }
    }
}
