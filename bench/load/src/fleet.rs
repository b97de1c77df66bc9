//! Many servers in the namespaces of many teams, the policies that govern them, and the identities that call them.
//!
//! Each team has a namespace with ten policies, and its identities are one class of callers: they see all tools of their
//! own namespace, some of six others, and a quarter of all. One class sees everything.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::api::hex;

/// Policies of a namespace.
pub const POLICIES: usize = 10;

/// Namespaces whose teams a namespace lets use a few of its tools.
const PARTNERS: usize = 6;

/// How many of everything there are.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Namespaces, each with a class of callers of its own; the last class sees everything.
    pub teams: usize,
    /// Servers, spread evenly over the namespaces.
    pub servers: usize,
    /// Tools of a server, `tool_PORT_0` and so on.
    pub tools: usize,
    /// ConfigMaps over which the servers are spread.
    pub slots: usize,
    /// Port of the first server on 127.0.0.1; the others follow.
    pub first_port: u16,
    /// Whether policies govern the servers.
    pub governed: bool,
}

/// Which tools of a namespace its changing policy allows to the team on the other side.
pub type Changing<'a> = &'a [bool];

impl Fleet {
    /// The namespace of a team.
    fn namespace(self, team: usize) -> String {
        format!("team-{team}")
    }

    /// The team that the changing policy of a namespace speaks of.
    pub fn guest(self, team: usize) -> usize {
        (team + self.teams / 2) % (self.teams - 1)
    }

    /// Servers of a team, by their numbers.
    fn servers_of(self, team: usize) -> impl Iterator<Item = usize> {
        (team..self.servers).step_by(self.teams)
    }

    /// The name of a tool as callers say it.
    pub fn tool(self, server: usize, tool: usize) -> String {
        let team = server % self.teams;
        format!("{}__tool_{}_{tool}", self.namespace(team), usize::from(self.first_port) + server)
    }

    /// The server of a namespace that lies in the last slot, and with it the tool that the changing policy is about.
    pub fn changing_tool(self, team: usize) -> String {
        let last = self.servers_of(team).max_by_key(|server| self.slot_of(*server)).unwrap_or(team);
        self.tool(last, self.tools - 1)
    }

    /// A tool that a class may call.
    pub fn usual_tool(self, class: usize, turn: usize) -> String {
        let own: Vec<usize> = self.servers_of(class).collect();
        self.tool(own[turn % own.len()], turn % self.tools)
    }

    /// Claims of an identity of a class.
    pub fn claims(self, class: usize, identity: usize) -> String {
        let group = if class + 1 == self.teams { "admins".to_owned() } else { self.namespace(class) };
        json!({"sub": format!("user-{identity}"), "groups": [group]}).to_string()
    }

    fn slot_of(self, server: usize) -> usize {
        (server / self.teams) % self.slots
    }

    /// The texts of all slots.
    pub fn slots(self, changing: Changing<'_>) -> Vec<String> {
        let policies: Vec<Vec<PolicyText>> =
            (0..self.teams).map(|team| if self.governed { self.policies(team, changing[team]) } else { vec![] }).collect();
        let slot = |slot: usize| {
            let mut keyed: Vec<(String, String, Value)> = Vec::new();
            for server in (0..self.servers).filter(|server| self.slot_of(*server) == slot) {
                let (team, namespace) = (server % self.teams, self.namespace(server % self.teams));
                let governing = policies[team].iter().filter(|policy| policy.governs(server / self.teams));
                let governed_by: Vec<Value> =
                    governing.map(|policy| json!({"name": policy.name, "revision": policy.revision})).collect();
                let name = format!("server-{server:04}");
                let entry = json!({
                    "key": {"namespace": namespace, "name": name},
                    "name": format!("{namespace}/{name}"),
                    "url": format!("http://127.0.0.1:{}/mcp", usize::from(self.first_port) + server),
                    "weight": 100,
                    "labels": {"team": namespace, "app": name},
                    "governedBy": governed_by,
                });
                keyed.push((namespace, name, entry));
            }
            keyed.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
            let servers: Vec<String> = keyed.into_iter().map(|(_, _, entry)| entry.to_string()).collect();
            let texts: Vec<&str> = policies.iter().flatten().map(|policy| policy.text.as_str()).collect();
            let (servers, texts) = (servers.join(","), texts.join(","));
            format!(r#"{{"version":2,"servers":[{servers}],"policies":[{texts}]}}"#)
        };
        (0..self.slots).map(slot).collect()
    }

    /// The policies of a namespace, sorted by name.
    fn policies(self, team: usize, is_open: bool) -> Vec<PolicyText> {
        let namespace = self.namespace(team);
        let group = |team: usize| json!([{"claims": [{"path": "groups", "values": [self.namespace(team)]}]}]);
        let mut all = vec![
            ("everybody".to_owned(), None, json!([
                {"name": "reads", "from": [{"authenticated": true}],
                 "allow": [{"tools": ["tool_*_0", "tool_*_1", "tool_*_2", "tool_*_3", "tool_*_4"]}]},
            ])),
            ("guests".to_owned(), None, json!([
                {"name": "one-tool", "from": group(self.guest(team)),
                 "allow": [{"tools": [if is_open { format!("tool_*_{}", self.tools - 1) } else { "none".into() }]}]},
            ])),
            ("nobody".to_owned(), None, json!([])),
            ("own".to_owned(), None, json!([
                {"name": "team", "from": group(team), "allow": [{"tools": ["*"]}, {"resources": ["*"]}]},
                {"name": "admins", "from": [{"claims": [{"path": "groups", "values": ["admins"]}]}],
                 "allow": [{"tools": ["*"]}, {"prompts": ["*"]}, {"resources": ["*"]}]},
            ])),
        ];
        all.extend((0..PARTNERS).map(|partner| {
            let (other, name) = ((team + partner + 1) % (self.teams - 1), format!("partner-{partner}"));
            let rules = json!([
                {"name": "some", "from": group(other), "allow": [{"tools": ["tool_*_5", "tool_*_6", "tool_*_7"]}]},
                {"name": "short", "from": group(other), "allow": [{"tools": ["tool_*_8", "tool_*_9"]}],
                 "when": "args.message.size() <= 1000 && server.labels.team != 'x'"},
                {"name": "pods", "from": [{"serviceAccount": {"namespace": self.namespace(other), "name": "*"}}],
                 "allow": [{"tools": ["tool_*_10"]}]},
            ]);
            (name, Some(partner), rules)
        }));
        all.into_iter().map(|(name, nth, rules)| PolicyText::new(&namespace, name, nth, &rules)).collect()
    }
}

/// A policy as a slot has it.
struct PolicyText {
    name: String,
    /// It governs each sixth server of its namespace from this one on; `None`: all of them.
    nth: Option<usize>,
    text: String,
    revision: String,
}

impl PolicyText {
    fn new(namespace: &str, name: String, nth: Option<usize>, rules: &Value) -> Self {
        let text = json!({"key": {"namespace": namespace, "name": name}, "mode": "Enforce", "rules": rules}).to_string();
        let revision = hex(&Sha256::digest(text.as_bytes())[..8]);
        Self { name, nth, text, revision }
    }

    fn governs(&self, server: usize) -> bool {
        self.nth.is_none_or(|nth| server % PARTNERS == nth)
    }
}
