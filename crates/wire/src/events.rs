//! Who may receive which event. Source: src/gateway/server-broadcast-scopes.ts at 2026.9.6.

use crate::methods::scope_satisfied;

/// Whether a client with this role and these scopes may receive `event`.
pub fn may_receive(event: &str, role: &str, scopes: &[String]) -> bool {
    let required: &[&str] = match event {
        "tick" | "health" | "heartbeat" | "shutdown" | "gateway.suspension"
        | "update.available" => return true,
        "chat.metadata.changed" => &["operator.read", "operator.sessions.read"],
        "agent"
        | "chat"
        | "board.changed"
        | "board.command"
        | "progressCard.changed"
        | "ui.command"
        | "chat.send_timing"
        | "chat.side_result"
        | "cron"
        | "presence"
        | "talk.event"
        | "task"
        | "task.suggestion"
        | "config.changed"
        | "users.prefs.changed"
        | "mentions.changed"
        | "skills.changed"
        | "plugins.changed"
        | "voicewake.changed"
        | "voicewake.routing.changed"
        | "node.presence"
        | "node.hostStats"
        | "node.runnerInventory.changed"
        | "sessions.catalog.host"
        | "sessions.changed"
        | "controlUi.sessionPullRequests.changed"
        | "plugins.controlUi.changed"
        | "session.message"
        | "session.observer"
        | "session.operation"
        | "session.sharing"
        | "session.sharing.evidence"
        | "session.suggestion"
        | "session.typing"
        | "session.tool"
        | "portal.changed" => &["operator.read"],
        "exec.approval.requested"
        | "exec.approval.resolved"
        | "plugin.approval.requested"
        | "plugin.approval.resolved"
        | "openclaw.approval.requested"
        | "openclaw.approval.resolved"
        | "session.approval" => &["operator.approvals"],
        "question.requested" | "question.resolved" => &["operator.questions"],
        "talk.mode" | "talk.voice.change" => &["operator.talk"],
        "update.run.changed" | "plugins.install.progress" | "terminal.data" | "terminal.exit" => {
            &["operator.admin"]
        }
        "device.pair.changed"
        | "device.pair.requested"
        | "device.pair.resolved"
        | "device.pair.setup.completed"
        | "device.pair.setup.deliveryUncertain"
        | "node.pair.requested"
        | "node.pair.resolved" => &["operator.pairing"],
        plugin if plugin.starts_with("plugin.") => &["operator.write"],
        _ => return false,
    };
    role == "operator" && required.iter().any(|scope| scope_satisfied(scope, scopes))
}

/// Whether an event may be dropped for a client whose queue is full. Losing the others would lose content.
pub fn drop_if_slow(event: &str) -> bool {
    matches!(
        event,
        "tick"
            | "health"
            | "presence"
            | "heartbeat"
            | "cron"
            | "agent"
            | "node.presence"
            | "node.hostStats"
            | "sessions.changed"
            | "device.pair.requested"
            | "device.pair.resolved"
            | "node.pair.requested"
            | "node.pair.resolved"
            | "session.typing"
            | "voicewake.changed"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_need_their_scope_and_unknown_ones_go_to_nobody() {
        let read = ["operator.read".to_owned()];
        assert!(may_receive("tick", "node", &[]));
        assert!(may_receive("presence", "operator", &read));
        assert!(!may_receive("presence", "node", &[]));
        assert!(!may_receive("terminal.data", "operator", &read));
        assert!(!may_receive(
            "made.up",
            "operator",
            &["operator.admin".to_owned()]
        ));
    }
}
