//! What can be wrong with a file or a wish.

/// Why there is no result. Every variant says what was found and, where one exists, the bound it passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The content is of no known kind, or of a kind that this build does not decode.
    #[error("{0}")]
    Unsupported(String),
    /// Doing it would pass a limit; found before the memory was allocated.
    #[error("{what} {have} is over the limit of {limit}")]
    Limit {
        /// What is bounded, with its unit.
        what: &'static str,
        /// What the file asks for.
        have: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The file contradicts its own format: truncated, corrupted or hostile.
    #[error("broken {format} file: {reason}")]
    Broken {
        /// The kind, from the content.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// The options contradict each other or the image.
    #[error("{0}")]
    Options(String),
    /// The encoder refused.
    #[error("cannot write {format}: {reason}")]
    Encode {
        /// The kind that was asked for.
        format: &'static str,
        /// The encoder's words.
        reason: String,
    },
    /// [`crate::Cancel::cancel`] was called.
    #[error("cancelled")]
    Cancelled,
}

impl MediaError {
    /// A stable, machine-readable name of the variant.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "unsupported",
            Self::Limit { .. } => "limit",
            Self::Broken { .. } => "broken",
            Self::Options(_) => "options",
            Self::Encode { .. } => "encode",
            Self::Cancelled => "cancelled",
        }
    }
}
