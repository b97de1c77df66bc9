//! What must change so that the running servers become those of a snapshot.
//!
//! Pure. Whatever can be changed in place is changed in place: a session is closed only where it must be.

use std::collections::BTreeMap;

use portcullis_crds::mcpserver::State;
use portcullis_crds::{Server, ServerKey, Snapshot};

/// The difference between what runs and what should.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Servers that are new.
    pub start: Vec<Server>,
    /// Servers that are gone.
    pub stop: Vec<ServerKey>,
    /// Servers that changed in a way that needs a new session.
    pub restart: Vec<Server>,
    /// Servers that changed in a way that their session can live with.
    pub update: Vec<Server>,
}

/// Compares what runs with what should.
pub fn plan(running: &BTreeMap<&ServerKey, &Server>, wanted: &Snapshot) -> Plan {
    let mut plan = Plan::default();
    for server in &wanted.servers {
        match running.get(&server.key) {
            None => plan.start.push(server.clone()),
            Some(old) if *old == server => {}
            Some(old) if needs_new_session(old, server) => plan.restart.push(server.clone()),
            Some(_) => plan.update.push(server.clone()),
        }
    }
    let wanted: std::collections::BTreeSet<_> = wanted.servers.iter().map(|server| &server.key).collect();
    plan.stop = running.keys().filter(|key| !wanted.contains(**key)).map(|key| (*key).clone()).collect();
    plan
}

/// Where a session goes and how it is secured cannot change under it; everything else can.
fn needs_new_session(old: &Server, new: &Server) -> bool {
    let connection = |server: &Server| {
        (server.url.clone(), server.transport, server.protocol_version.clone(), server.tls.clone(), server.name.clone())
    };
    connection(old) != connection(new) || (old.state == State::Disabled) != (new.state == State::Disabled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_crds::mcpserver::Transport;
    use proptest::prelude::*;

    fn map(servers: &[Server]) -> BTreeMap<ServerKey, Server> {
        servers.iter().map(|server| (server.key.clone(), server.clone())).collect()
    }

    fn borrowed(servers: &BTreeMap<ServerKey, Server>) -> BTreeMap<&ServerKey, &Server> {
        servers.iter().collect()
    }

    fn server(name: &str) -> Server {
        Server::from_url(name, "http://localhost/mcp")
    }

    #[test]
    fn only_what_changed_is_touched() {
        let moved = Server { url: "http://other/mcp".into(), ..server("moved") };
        let heavier = Server { weight: 7, ..server("heavier") };
        let off = Server { state: State::Disabled, ..server("off") };
        let draining = Server { state: State::Draining, ..server("draining") };
        let running = map(&[
            server("gone"),
            server("kept"),
            server("moved"),
            server("heavier"),
            server("off"),
            server("draining"),
        ]);
        let wanted = Snapshot::new(vec![
            server("kept"),
            server("new"),
            moved.clone(),
            heavier.clone(),
            off.clone(),
            draining.clone(),
        ]);
        let expected = Plan {
            start: vec![server("new")],
            stop: vec![server("gone").key],
            restart: vec![moved, off],
            update: vec![draining, heavier],
        };
        assert_eq!(plan(&borrowed(&running), &wanted), expected);
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
            let mut running = map(&before);
            let wanted = Snapshot::new(after.into_iter().map(|(name, server)| Server { key: ServerKey::new("n", name), ..server }).collect());
            let plan = plan(&borrowed(&running), &wanted);
            plan.stop.iter().for_each(|key| { running.remove(key); });
            for server in plan.start.into_iter().chain(plan.restart).chain(plan.update) {
                running.insert(server.key.clone(), server);
            }
            prop_assert_eq!(running.into_values().collect::<Vec<_>>(), wanted.servers.clone());
        }
    }
}
