//! Messages as the gateway and every service agree on them. Inbound ones are stored as JSON in the
//! spool and outbound ones in the outbox, so fields are only ever added, with a default.

use serde::{Deserialize, Serialize};

/// Where a conversation takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatKind {
    Direct,
    Group,
    /// A broadcast channel or a public room.
    Channel,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    #[default]
    Message,
    /// `edit_of` names the message whose new text this is.
    Edit,
    /// `reply_to` names the message, `text` is the emoji; empty: taken back.
    Reaction,
    /// A button was pressed: `text` is its data, `reply_to` the message it hangs on.
    Button,
}

/// One thing that somebody did on a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InboundMessage {
    /// Unique within the account for ever: the key of deduplication
    /// (Telegram `update_id`, Matrix event id, email Message-ID).
    pub event_id: String,
    /// The service's id of the message itself, for replies and reactions; often = `event_id`.
    pub message_id: String,
    #[serde(default)]
    pub kind: EventKind,
    pub chat: Chat,
    pub sender: Sender,
    /// Plain text or Markdown.
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit_of: Option<String>,
    /// Text of the message replied to, where the service sends it along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted: Option<String>,
    /// The service itself says that we are addressed: mention entity, reply to us, command to us.
    #[serde(default)]
    pub mentions_us: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// When the service says it was sent, ms since the epoch.
    pub sent_at_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chat {
    pub kind: ChatKind,
    /// The service's id of the room or, for direct chats, of the other person. What `target` is
    /// when answering.
    pub id: String,
    /// Topic or thread within it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Guild, workspace, space that the room belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sender {
    /// The service's stable id.
    pub id: String,
    /// `@name` without the at sign, nick, address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub is_bot: bool,
    /// Roles in the guild, where bindings look at them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

/// A file that came with a message or goes out with one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Inbound: what [`crate::Channel::fetch`] takes. Outbound: a path of a local file.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As declared; the content decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Voice note rather than a music file.
    #[serde(default)]
    pub voice: bool,
    /// A picture that the service takes as a file only.
    #[serde(default)]
    pub as_file: bool,
}

/// One message to send, within the service's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboundMessage {
    /// Ours, unique and stable over retries: transaction id, Message-ID, label.
    pub delivery_id: String,
    /// Room or person, as in [`Chat::id`].
    pub target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Markdown.
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// Rows of buttons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<Vec<Button>>,
    /// No notification sound.
    #[serde(default)]
    pub silent: bool,
    /// Subject for services that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Button {
    pub text: String,
    /// Comes back as the text of an [`EventKind::Button`]; a URL opens instead.
    pub data: String,
}

/// What the service answered to a send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The service's id of the message, for replies, edits and reactions.
    pub message_id: String,
    /// Further ids when the service made several of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_ids: Vec<String>,
}

/// What can be done besides sending. Lossy where it does not matter (typing), otherwise answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Typing {
        target: String,
        thread: Option<String>,
        on: bool,
    },
    /// `emoji: None` takes ours back.
    React {
        target: String,
        message_id: String,
        emoji: Option<String>,
    },
    Edit {
        target: String,
        message_id: String,
        /// Markdown.
        text: String,
    },
    Delete {
        target: String,
        message_id: String,
    },
}
