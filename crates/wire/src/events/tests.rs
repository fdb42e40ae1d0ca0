use super::*;

#[test]
fn events_reach_whom_the_original_lets_them() {
    let check = |name, role, scopes: &[&str], expected| {
        assert_eq!(
            may_receive(name, role, ScopeSet::parse(scopes)),
            expected,
            "{name} to {role} with {scopes:?}"
        );
    };
    check("tick", "node", &[], true);
    check("health", "operator", &[], true);
    check("presence", "operator", &["operator.read"], true);
    check("presence", "operator", &["operator.write"], true);
    check("presence", "operator", &["operator.pairing"], false);
    check("presence", "node", &["operator.read"], false);
    check(
        "chat.metadata.changed",
        "operator",
        &["operator.sessions.read"],
        true,
    );
    check("chat", "operator", &["operator.sessions.read"], false);
    check(
        "exec.approval.requested",
        "operator",
        &["operator.write"],
        false,
    );
    check(
        "exec.approval.requested",
        "operator",
        &["operator.admin"],
        true,
    );
    check("terminal.data", "operator", &["operator.write"], false);
    check("talk.mode", "operator", &["operator.write"], true);
    check(
        "plugin.approval.requested",
        "operator",
        &["operator.write"],
        false,
    );
    check("plugin.anything", "operator", &["operator.write"], true);
    check("plugin.anything", "operator", &["operator.read"], false);
    check("plugin.anything", "node", &["operator.write"], false);
    check("node.invoke.request", "node", &[], false);
    check("models.snapshot", "operator", &["operator.admin"], false);
    check("connect.challenge", "operator", &["operator.admin"], false);
    check("never.heard.of", "operator", &["operator.admin"], false);
}

#[test]
fn the_table_is_whole_and_found_by_name() {
    let advertised = EVENTS.iter().filter(|event| event.advertised).count();
    assert_eq!(advertised, 64);
    assert_eq!(EVENTS[0].name, "connect.challenge");
    for event in &EVENTS {
        assert_eq!(lookup(event.name), Some(event));
    }
    assert_eq!(lookup("tic"), None);
    let drops = |name| lookup(name).is_some_and(|event| event.drop_if_slow);
    assert!(drops("presence") && drops("sessions.changed"));
    assert!(!drops("chat") && !drops("tick") && !drops("health"));
}
