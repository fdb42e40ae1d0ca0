//! Find text again: keyword and vector search over chunks.
