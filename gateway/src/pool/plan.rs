//! Computes the changes from the running servers to those of a snapshot.
//!
//! Pure. Changes are made in place if possible: a session is closed only if it must be.

use std::sync::Arc;

use portcullis_crds::mcpserver::ServingState;
use portcullis_crds::{Server, ServerKey};

/// The difference between the running and the wanted servers.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// New servers.
    pub(crate) start: Vec<Arc<Server>>,
    /// Removed servers.
    pub(crate) stop: Vec<ServerKey>,
    /// Servers whose changes need a new session.
    pub(crate) restart: Vec<Arc<Server>>,
    /// Servers whose changes their session can adopt.
    pub(crate) update: Vec<Arc<Server>>,
}

/// Compares the running with the wanted servers; both are sorted by key.
pub(crate) fn plan<'a>(running: impl Iterator<Item = &'a Arc<Server>>, wanted: &[Arc<Server>]) -> Plan {
    let mut plan = Plan::default();
    let mut running = running.peekable();
    for server in wanted {
        // Most servers are unchanged, and comparing names is slow.
        if running.next_if(|old| Arc::ptr_eq(old, server)).is_some() {
            continue;
        }
        while let Some(old) = running.next_if(|old| old.key < server.key) {
            plan.stop.push(old.key.clone());
        }
        match running.next_if(|old| old.key == server.key) {
            None => plan.start.push(server.clone()),
            Some(old) if old == server => {}
            Some(old) if needs_new_session(old, server) => plan.restart.push(server.clone()),
            Some(_) => plan.update.push(server.clone()),
        }
    }
    plan.stop.extend(running.map(|old| old.key.clone()));
    plan
}

/// The target and the security of a session cannot change under it; everything else can.
fn needs_new_session(old: &Server, new: &Server) -> bool {
    let connection = |server: &Server| {
        let Server { url, transport, protocol_version, tls, name, session, listing, .. } = server.clone();
        (url, transport, protocol_version, tls, name, session, listing.per_caller)
    };
    connection(old) != connection(new) || (old.state == ServingState::Disabled) != (new.state == ServingState::Disabled)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use portcullis_crds::Snapshot;
    use portcullis_crds::mcpserver::Transport;
    use proptest::prelude::*;

    fn shared(servers: &[Server]) -> Vec<Arc<Server>> {
        Snapshot::new(servers.to_vec()).servers.into_iter().map(Arc::new).collect()
    }

    fn server(name: &str) -> Server {
        Server::from_url(name, "http://localhost/mcp")
    }

    #[test]
    fn only_what_changed_is_touched() {
        let moved = Server { url: "http://other/mcp".into(), ..server("moved") };
        let heavier = Server { weight: 7, ..server("heavier") };
        let off = Server { state: ServingState::Disabled, ..server("off") };
        let draining = Server { state: ServingState::Draining, ..server("draining") };
        let running = shared(&[
            server("gone"),
            server("kept"),
            server("moved"),
            server("heavier"),
            server("off"),
            server("draining"),
        ]);
        let wanted =
            shared(&[server("kept"), server("new"), moved.clone(), heavier.clone(), off.clone(), draining.clone()]);
        let expected = Plan {
            start: shared(&[server("new")]),
            stop: vec![server("gone").key],
            restart: shared(&[moved, off]),
            update: shared(&[draining, heavier]),
        };
        assert_eq!(plan(running.iter(), &wanted), expected);
    }

    fn any_server() -> impl Strategy<Value = Server> {
        ("[a-d]", "[xy]", 1u16..3, any::<bool>()).prop_map(|(name, host, weight, sse)| Server {
            weight,
            transport: if sse { Transport::Sse } else { Transport::Auto },
            ..Server::from_url(&name, &format!("http://{host}/"))
        })
    }

    proptest! {
        #[test]
        fn a_plan_carried_out_gives_the_snapshot(
            before in prop::collection::vec(any_server(), 0..5),
            after in prop::collection::btree_map("[a-d]", any_server(), 0..5),
        ) {
            let before: BTreeMap<ServerKey, Server> = before.into_iter().map(|server| (server.key.clone(), server)).collect();
            let before = shared(&before.into_values().collect::<Vec<_>>());
            let after: Vec<Server> = after.into_iter().map(|(name, server)| Server { key: ServerKey::new("default", name), ..server }).collect();
            let wanted = shared(&after);
            let plan = plan(before.iter(), &wanted);
            let mut running: BTreeMap<ServerKey, Arc<Server>> = before.into_iter().map(|server| (server.key.clone(), server)).collect();
            plan.stop.iter().for_each(|key| { running.remove(key); });
            for server in plan.start.into_iter().chain(plan.restart).chain(plan.update) {
                running.insert(server.key.clone(), server);
            }
            prop_assert_eq!(running.into_values().collect::<Vec<_>>(), wanted);
        }
    }
}
