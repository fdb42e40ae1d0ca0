//! An answer as it grows, whatever the protocol: bounded, and handed out piece by piece.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;

use crate::{CallError, Completion, Limits, Model, Piece, Thought, ToolCall, http};

/// Answers without an id so far.
static ANSWERS: AtomicU64 = AtomicU64::new(1);

/// A model that asks for more at once asks for nothing sensible.
const CALLS_MAX: usize = 64;
/// What a thought weighs beside its words: there is no end of empty ones otherwise.
const THOUGHT_BYTES: usize = 64;

pub(crate) struct Answer<'a> {
    pub(crate) model: &'a Model,
    limits: &'a Limits,
    on: &'a mut (dyn FnMut(Piece) + Send),
    pub(crate) out: Completion,
    /// The provider said that this was all.
    ended: bool,
    bytes: usize,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(
        model: &'a Model,
        limits: &'a Limits,
        on: &'a mut (dyn FnMut(Piece) + Send),
    ) -> Self {
        Self {
            model,
            limits,
            on,
            out: Completion::default(),
            ended: false,
            bytes: 0,
        }
    }

    pub(crate) fn parse<T: DeserializeOwned>(&self, data: &str) -> Result<T, CallError> {
        serde_json::from_str(data).map_err(|error| {
            http::garbage(self.model, format!("not JSON where JSON was due ({error})"))
        })
    }

    /// What the provider calls the answer and the model.
    pub(crate) fn named(&mut self, id: Option<String>, model: Option<String>) {
        let told = |name: Option<String>| name.filter(|name| !name.is_empty());
        self.out.response_id = self.out.response_id.take().or(told(id));
        self.out.response_model = told(model).or(self.out.response_model.take());
    }

    pub(crate) fn text(&mut self, text: Option<String>) -> Result<(), CallError> {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.weigh(text.len())?;
            self.out.text.push_str(&text);
            (self.on)(Piece::Text(text));
        }
        Ok(())
    }

    pub(crate) fn reasoning(&mut self, text: Option<String>) -> Result<(), CallError> {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.weigh(text.len())?;
            if self.out.thoughts.is_empty() {
                self.thinks_on()?;
            }
            if let Some(last) = self.out.thoughts.last_mut() {
                last.text.push_str(&text);
            }
            (self.on)(Piece::Reasoning(text));
        }
        Ok(())
    }

    /// What is thought from here on is a thought of its own.
    pub(crate) fn thinks_on(&mut self) -> Result<(), CallError> {
        let Some(last) = self.out.thoughts.last() else {
            self.out.thoughts.push(Thought::default());
            return Ok(());
        };
        // One that nothing was thought in serves for the next.
        if *last != Thought::default() {
            self.weigh(THOUGHT_BYTES)?;
            self.out.thoughts.push(Thought::default());
        }
        Ok(())
    }

    /// What the provider wants back with the last thought.
    pub(crate) fn sign(&mut self, signature: &str) -> Result<(), CallError> {
        self.weigh(signature.len())?;
        if let Some(last) = self.out.thoughts.last_mut() {
            last.signature.get_or_insert_default().push_str(signature);
        }
        Ok(())
    }

    /// More of the call at `index`: a name, an id, a piece of its arguments.
    pub(crate) fn call(
        &mut self,
        index: usize,
        id: Option<String>,
        name: Option<String>,
        arguments: &str,
    ) -> Result<&mut ToolCall, CallError> {
        if index >= CALLS_MAX {
            return Err(http::garbage(
                self.model,
                format!("more than {CALLS_MAX} tool calls at once"),
            ));
        }
        self.weigh(arguments.len() + name.as_ref().map_or(0, String::len))?;
        while self.out.calls.len() <= index {
            self.out.calls.push(ToolCall::default());
        }
        let call = &mut self.out.calls[index];
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            call.id = id;
        }
        if let Some(name) = name {
            call.name.push_str(&name);
        }
        call.arguments.push_str(arguments);
        Ok(call)
    }

    fn weigh(&mut self, bytes: usize) -> Result<(), CallError> {
        self.bytes += bytes;
        let max = self.limits.text_bytes_max;
        match self.bytes > max {
            true => Err(http::garbage(
                self.model,
                format!("an answer of more than {max} bytes"),
            )),
            false => Ok(()),
        }
    }

    /// Whether something of the answer has been handed out.
    pub(crate) const fn has_begun(&self) -> bool {
        self.bytes > 0
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// The whole answer.
    ///
    /// # Errors
    /// When there is none, or it ended too soon.
    pub(crate) fn finish(mut self) -> Result<Completion, CallError> {
        self.out.calls.retain(|call| !call.name.is_empty());
        self.out
            .thoughts
            .retain(|thought| !thought.text.is_empty() || thought.signature.is_some());
        let mut fresh = 0;
        for call in &mut self.out.calls {
            // Some servers leave it out; results must still find their calls.
            if call.id.is_empty() {
                fresh += 1;
                let answer = self.out.response_id.as_deref();
                call.id = match answer {
                    Some(answer) => format!("call_{answer}_{fresh}"),
                    // Not the same as in another answer of the same turn.
                    None => format!("call_{}_{fresh}", ANSWERS.fetch_add(1, Ordering::Relaxed)),
                };
            }
        }
        let is_empty =
            self.out.text.is_empty() && self.out.thoughts.is_empty() && self.out.calls.is_empty();
        if self.out.stop_reason.is_empty() {
            if is_empty {
                return Err(http::garbage(self.model, "an answer without content"));
            }
            if !self.ended {
                return Err(http::broke_off(
                    self.model,
                    "the stream ended before the answer did",
                ));
            }
            self.out.stop_reason = "stop".to_owned();
        }
        // Cut off in the middle of a call, its arguments are not what the model meant.
        if self.out.stop_reason == "length" {
            self.out.calls.clear();
        } else if !self.out.calls.is_empty() {
            self.out.stop_reason = crate::TOOL_USE.to_owned();
        }
        Ok(self.out)
    }
}
