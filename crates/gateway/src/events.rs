//! One stream of numbered events to many connections.
//!
//! An event is serialised once; a receiver's number is spliced in when it is queued. Nobody waits for a slow
//! client: its queue is bounded and decides (see `ingress::outbound`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::RwLock;
use wire::frame::EventText;
use wire::scope::ScopeSet;

use crate::ingress::outbound::{Close, Outbound};

/// Whether an event may be dropped for a client whose queue is full; an unknown one may not.
pub(crate) fn drop_if_slow(event: &str) -> bool {
    wire::events::lookup(event).is_some_and(|event| event.drop_if_slow)
}

/// What the hub must know of a connection to decide whether it may see an event.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) conn_id: Arc<str>,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) is_node: bool,
    pub(crate) scopes: ScopeSet,
    pub(crate) device_id: Option<String>,
    /// As what our own authentication let it in; `None` when the upstream judged it.
    pub(crate) judged: Option<Arc<crate::auth::Principal>>,
    /// Has the capability `tool-events`.
    pub(crate) wants_tools: bool,
    /// Its place in the rollout; see [`crate::rollout`].
    pub(crate) place: u16,
    /// Shows a person the commands that wait for approval.
    pub(crate) shows_approvals: bool,
}

/// Every open session, by connection id.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    subscribers: RwLock<HashMap<Arc<str>, Arc<Subscriber>>>,
    /// What connections asked to be told of, by connection id.
    following: RwLock<HashMap<Arc<str>, Following>>,
}

/// What a connection follows of the agents that run here.
#[derive(Debug, Default)]
struct Following {
    /// `sessions.subscribe`.
    list: bool,
    /// `sessions.messages.subscribe`.
    sessions: HashSet<String>,
}

/// Sessions that one connection may follow at once; more are not told.
const FOLLOWED_MAX: usize = 256;

impl Hub {
    pub(crate) fn add(&self, subscriber: Arc<Subscriber>) {
        self.subscribers
            .write()
            .insert(Arc::clone(&subscriber.conn_id), subscriber);
    }

    pub(crate) fn follow_list(&self, conn_id: &Arc<str>) {
        let mut following = self.following.write();
        following.entry(Arc::clone(conn_id)).or_default().list = true;
    }

    pub(crate) fn follow_session(&self, conn_id: &Arc<str>, key: &str, on: bool) {
        let mut following = self.following.write();
        let own = following.entry(Arc::clone(conn_id)).or_default();
        if !on {
            own.sessions.remove(key);
        } else if own.sessions.len() < FOLLOWED_MAX {
            own.sessions.insert(key.to_owned());
        }
    }

    /// An event for those who follow the list of sessions, and those who follow `session`.
    pub(crate) fn tell_followers(&self, event: &str, payload: &str, session: Option<&str>) {
        let following = self.following.read();
        if following.is_empty() {
            return;
        }
        self.broadcast_if(event, payload, None, |subscriber| {
            following.get(&subscriber.conn_id).is_some_and(|own| {
                own.list || session.is_some_and(|key| own.sessions.contains(key))
            })
        });
    }

    pub(crate) fn remove(&self, conn_id: &str) {
        self.following.write().remove(conn_id);
        let mut subscribers = self.subscribers.write();
        subscribers.remove(conn_id);
        // A burst of thousands of clients must not leave its table behind.
        if subscribers.capacity() > 1024 && subscribers.len() < subscribers.capacity() / 8 {
            subscribers.shrink_to_fit();
        }
    }

    /// Whether a device has a live connection.
    pub(crate) fn has_device(&self, device_id: &str) -> bool {
        self.subscribers
            .read()
            .values()
            .any(|subscriber| subscriber.device_id.as_deref() == Some(device_id))
    }

    /// Clients that show a person what waits for approval, and may decide it.
    pub(crate) fn approvers(&self, but: Option<&str>) -> usize {
        let event = "exec.approval.requested";
        let subscribers = self.subscribers.read();
        let approvers = subscribers.values().filter(|subscriber| {
            subscriber.shows_approvals
                && !subscriber.is_node
                && Some(&*subscriber.conn_id) != but
                && wire::events::may_receive(event, "operator", subscriber.scopes)
        });
        approvers.count()
    }

    pub(crate) fn len(&self) -> usize {
        self.subscribers.read().len()
    }

    /// Sends one of our own events to everyone who may see it; answers how many that were.
    pub(crate) fn broadcast(
        &self,
        event: &str,
        payload: &str,
        state_version: Option<&str>,
    ) -> usize {
        self.broadcast_if(event, payload, state_version, |_| true)
    }

    pub(crate) fn broadcast_if(
        &self,
        event: &str,
        payload: &str,
        state_version: Option<&str>,
        accept: impl Fn(&Subscriber) -> bool,
    ) -> usize {
        let text = EventText::new(event, Some(payload), state_version);
        let drop_if_slow = drop_if_slow(event);
        let mut count = 0;
        for subscriber in self.subscribers.read().values() {
            let role = if subscriber.is_node {
                "node"
            } else {
                "operator"
            };
            if wire::events::may_receive(event, role, subscriber.scopes) && accept(subscriber) {
                subscriber.outbound.event(&text, drop_if_slow);
                count += 1;
            }
        }
        count
    }

    /// Tells everyone to go: the `shutdown` event, then the close.
    pub(crate) fn shut_down(&self, payload: &str, close: &Close) {
        let text = EventText::new("shutdown", Some(payload), None);
        for subscriber in self.subscribers.read().values() {
            subscriber.outbound.event(&text, false);
            subscriber.outbound.close(close.clone());
        }
    }

    /// Closes each connection in its own way, or not.
    pub(crate) fn close_each(&self, close: impl Fn(&Subscriber) -> Option<Close>) {
        for subscriber in self.subscribers.read().values() {
            if let Some(close) = close(subscriber) {
                subscriber.outbound.close(close);
            }
        }
    }

    /// Closes the connections that `select` names; answers how many.
    pub(crate) fn close_if(&self, close: &Close, select: impl Fn(&Subscriber) -> bool) -> usize {
        let mut count = 0;
        for subscriber in self.subscribers.read().values() {
            if select(subscriber) {
                subscriber.outbound.close(close.clone());
                count += 1;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::scope::Scope;

    fn join(hub: &Hub, id: &str, scopes: ScopeSet, is_node: bool) -> Arc<Subscriber> {
        let subscriber = Arc::new(Subscriber {
            conn_id: id.into(),
            outbound: Arc::new(Outbound::new(1 << 20)),
            is_node,
            scopes,
            device_id: Some(format!("device-{id}")),
            judged: None,
            wants_tools: false,
            place: 0,
            shows_approvals: true,
        });
        hub.add(Arc::clone(&subscriber));
        subscriber
    }

    fn text_of(subscriber: &Subscriber) -> String {
        let mut taken = Vec::new();
        let written = subscriber.outbound.write_with(|slices| {
            for slice in slices {
                taken.extend_from_slice(slice);
            }
            std::task::Poll::Ready(Ok::<_, std::io::Error>(taken.len()))
        });
        assert!(matches!(written, std::task::Poll::Ready(Ok(_))));
        String::from_utf8_lossy(&taken).into_owned()
    }

    #[test]
    fn an_event_goes_to_those_who_may_see_it_and_each_has_its_own_numbers() {
        let hub = Hub::default();
        let read = ScopeSet::EMPTY.with(Scope::Read);
        let reader = join(&hub, "reader", read, false);
        let nobody = join(&hub, "nobody", ScopeSet::EMPTY, false);
        assert_eq!(hub.broadcast("tick", r#"{"ts":1}"#, None), 2);
        assert_eq!(hub.broadcast("chat", r#"{"state":"final"}"#, None), 1);
        let (seen, unseen) = (text_of(&reader), text_of(&nobody));
        assert!(
            seen.contains(r#""seq":1"#) && seen.contains(r#""seq":2"#),
            "{seen}"
        );
        assert!(
            unseen.contains(r#""seq":1"#) && !unseen.contains("final"),
            "{unseen}"
        );
        assert!(hub.has_device("device-reader"));
        hub.remove("reader");
        assert!(!hub.has_device("device-reader") && hub.len() == 1);
    }

    #[test]
    fn who_follows_more_sessions_than_it_may_is_told_of_the_first_ones() {
        let hub = Hub::default();
        let reader = join(&hub, "reader", ScopeSet::EMPTY.with(Scope::Read), false);
        for n in 0..=FOLLOWED_MAX {
            hub.follow_session(&reader.conn_id, &n.to_string(), true);
        }
        let tell = |n: usize| {
            let session = n.to_string();
            hub.tell_followers("session.message", r#"{"n":1}"#, Some(&session));
            let told = reader
                .outbound
                .has_work(&std::task::Context::from_waker(std::task::Waker::noop()));
            if told {
                text_of(&reader);
            }
            told
        };
        assert!(tell(0) && tell(FOLLOWED_MAX - 1) && !tell(FOLLOWED_MAX));
        hub.follow_session(&reader.conn_id, "0", false);
        assert!(!tell(0));
        hub.follow_list(&reader.conn_id);
        assert!(tell(0));
        hub.remove("reader");
        assert!(!tell(0));
    }

    #[test]
    fn who_asks_for_approval_does_not_count_as_who_gives_it() {
        let hub = Hub::default();
        let scopes = ScopeSet::EMPTY.with(Scope::Approvals);
        join(&hub, "asks", scopes, false);
        join(&hub, "decides", scopes, false);
        join(&hub, "node", scopes, true);
        join(&hub, "reader", ScopeSet::EMPTY.with(Scope::Read), false);
        assert_eq!((hub.approvers(None), hub.approvers(Some("asks"))), (2, 1));
    }
}
