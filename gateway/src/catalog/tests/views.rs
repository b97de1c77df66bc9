//! Views: what is in them, under which names, what their lists show, and what is found in them.

use portcullis_crds::mcpserver::AllowedViews;
use portcullis_crds::view::SharedViews;
use portcullis_crds::{Policies, ReadPolicy, View};
use serde_json::{Value, json};

use super::governed::identity;
use super::*;
use crate::offer::search_tools;

/// A server that views of any namespace may select.
fn server_of(namespace: &str, name: &str, tools: &[&str]) -> Arc<Handle> {
    let key = ServerKey::new(namespace, name);
    let allowed_views = AllowedViews { namespaces: vec!["*".into()] };
    let spec = Server {
        name: key.public_name("default"),
        key,
        allowed_views,
        ..Server::from_url(name, &format!("http://{name}.{namespace}/"))
    };
    with_offer(spec, tools)
}

fn with_offer(spec: Server, tools: &[&str]) -> Arc<Handle> {
    let texts: Vec<String> = tools.iter().map(|tool| definition(tool)).collect();
    let tools = read_tools(texts.iter().map(String::as_str), &ToolRules::default()).shared();
    let resources = ["x:open", "x:shut"].map(|uri| json!({"uri": uri, "name": uri}).to_string());
    let resources = plain::read(Kind::Resources, resources.iter().map(String::as_str)).shared();
    let capabilities = ServerCapabilities { resources: true, ..ServerCapabilities::default() };
    let handle = Handle::new(spec, &Metrics::new());
    handle.set_offer(Offer { tools, resources, capabilities, listed: true, ..Offer::default() });
    Arc::new(handle)
}

fn definition(tool: &str) -> String {
    json!({"name": tool, "description": format!("Does {tool}."), "inputSchema": {"type": "object"}}).to_string()
}

fn view(namespace: &str, name: &str, spec: Value) -> Arc<View> {
    Arc::new(View::new(ServerKey::new(namespace, name), serde_json::from_value(spec).unwrap(), "default"))
}

fn catalog(servers: &[Arc<Handle>], views: &[Arc<View>]) -> Arc<Catalog> {
    rebuilt(servers, views, None)
}

fn rebuilt(servers: &[Arc<Handle>], views: &[Arc<View>], before: Option<&Catalog>) -> Arc<Catalog> {
    let views: SharedViews = views.into();
    let default = PolicyDefault::Allow;
    Arc::new(Catalog::build_governed(Tenancy::Isolated, default, servers.to_vec(), &views, before))
}

fn names(catalog: &Catalog) -> Vec<String> {
    let page = catalog.page(Kind::Tools, Scope::All, None).unwrap();
    let page: Value = serde_json::from_str(&format!("{{{}}}", std::str::from_utf8(&page).unwrap())).unwrap();
    let listing: Value = serde_json::from_slice(&catalog.listing()).unwrap();
    let of = |tools: &Value| -> Vec<String> {
        let mut names: Vec<_> =
            tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().into()).collect();
        names.sort();
        names
    };
    assert_eq!(of(&page["tools"]), of(&listing["tools"]), "REST lists what MCP lists");
    of(&page["tools"])
}

#[test]
fn a_view_holds_what_it_selects_under_names_of_its_own() {
    let servers = [
        server_of("default", "crm", &["get", "set"]),
        server_of("team", "crm", &["get", "list", "set"]),
        server_of("team", "wiki", &["get"]),
        server_of("shared", "clock", &["get", "time"]),
    ];
    let spec = json!({
        "select": [{"tools": ["get", "li*"]}, {"servers": {"namespaces": ["shared"]}}],
        "exclude": [{"servers": {"names": ["wiki"]}}],
        "tools": [{"server": "shared/clock", "name": "time", "rename": "now", "description": "The time."}],
    });
    let catalog = catalog(&servers, &[view("team", "v", spec)]);
    assert!(catalog.view("v").is_none(), "the bare name is of the home namespace");
    let view = catalog.view("team/v").unwrap();
    assert_eq!(
        offered(view),
        [
            row("get", &["team/crm"]),
            row("list", &["team/crm"]),
            row("now", &["shared/clock"]),
            row("shared__get", &["shared/clock"]),
        ]
    );
    assert_eq!(names(view), ["get", "list", "now", "shared__get"]);
    let found = view.find(Kind::Tools, Scope::All, "now").unwrap();
    assert_eq!(&*found.candidates[0].item.own_name, "time", "the server knows it by its own name");
    assert!(found.candidates[0].item.members.contains(r#""description":"The time.""#));
    assert!(view.find(Kind::Tools, Scope::All, "set").is_none());
    assert_eq!(catalog.find(Kind::Tools, Scope::All, "shared__time").map(|found| found.candidates.len()), Some(1));
    let report = view.view_report().unwrap();
    assert_eq!((report.servers, report.tools, report.hidden), (2, 4, 0));
    assert_eq!(report.unmatched, ["servers.names: wiki"; 0]);
}

#[test]
fn a_view_reads_what_it_selects_and_nothing_else() {
    let servers = [server_of("default", "a", &["t"])];
    let some = view("default", "some", json!({"select": [{"tools": ["*"], "resources": ["x:open"]}]}));
    let all = view("default", "all", json!({"select": [{}]}));
    let catalog = catalog(&servers, &[some, all]);
    let readable = |view: &str, uri: &str| catalog.view(view).unwrap().reader(Scope::All, uri).is_some();
    for (uri, of_some, of_all) in [
        ("x:open", true, true),
        ("x:shut", false, true),
        ("x:unlisted", false, true),
        ("x:~default.a/open", true, true),
        ("x:~default.a/shut", false, true),
    ] {
        assert_eq!((readable("some", uri), readable("all", uri)), (of_some, of_all), "{uri}");
    }
}

#[test]
fn a_budget_lists_what_fits_in_the_order_of_the_selection_and_hides_the_rest() {
    let servers = [server_of("default", "a", &["alpha", "beta", "gamma", "zeta"])];
    let one = definition("beta").len() as u32 + 1;
    let spec = |search: &str, bytes: u32| json!({"select": [{"tools": ["z*", "*a"]}], "search": search, "budget": {"bytes": bytes}});
    for (search, bytes, expected, hidden) in [
        ("Never", 4 * one + 20, vec!["alpha", "beta", "gamma", "zeta"], 0),
        ("Auto", 4 * one + 20, vec!["alpha", "beta", "gamma", "zeta"], 0),
        ("Never", 2 * one + 8, vec!["alpha", "zeta"], 2),
        ("Never", 0, vec![], 4),
        ("Auto", 0, vec!["call_tool", "describe_tool", "search_tools"], 4),
    ] {
        let catalog = catalog(&servers, &[view("default", "v", spec(search, bytes))]);
        let view = catalog.view("v").unwrap();
        assert_eq!(names(view), expected, "{search} {bytes}");
        let page = view.page(Kind::Tools, Scope::All, None).unwrap();
        let report = view.view_report().unwrap();
        assert_eq!(
            (report.hidden, report.bytes),
            (hidden, (page.len() - r#""tools":"#.len()) as u64),
            "{search} {bytes}"
        );
        assert!(view.find(Kind::Tools, Scope::All, "gamma").is_some(), "what is hidden can be called");
    }
}

#[test]
fn a_search_finds_what_the_caller_may_use_and_is_closed_where_the_view_has_none() {
    let mut policies = Policies::default();
    let spec = json!({"rules": [{"name": "r", "from": [{"subject": "alice"}], "allow": [{"tools": ["weather_*"]}]}]});
    let metadata = json!({"namespace": "default", "name": "p"});
    policies.insert(ReadPolicy::of(&json!({"metadata": metadata, "spec": spec})));
    let spec = Server::from_url("a", "http://a/");
    let spec = policies.govern(spec, &std::collections::BTreeMap::new());
    let servers = [
        with_offer(spec, &["weather_now", "weather_tomorrow", "weather_control"]),
        server_of("default", "b", &["bake"]),
    ];
    let always = view("default", "always", json!({"select": [{}], "search": "Always", "budget": {"tokens": 0}}));
    let never = view("default", "never", json!({"select": [{}], "search": "Never"}));
    let catalog = catalog(&servers, &[always, never]);
    let view = catalog.view("always").unwrap();
    let found = |subject: &str, query: &str| -> Vec<String> {
        let found: Value = serde_json::from_str(&view.search(&identity(subject), query, 2)).unwrap();
        found.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().into()).collect()
    };
    assert_eq!(found("alice", "what is the weather tomorow?")[0], "weather_tomorrow");
    assert_eq!(found("bob", "weather"), Vec::<String>::new());
    assert_eq!(found("bob", "baking"), ["bake"]);
    assert_eq!(view.describe(&identity("bob"), "weather_now"), None);
    assert_eq!(
        view.describe(&identity("alice"), "bake"),
        Some(definition("bake")).map(|text| {
            let tool: Value = serde_json::from_str(&text).unwrap();
            format!(r#"{{"name":"bake","description":{},"inputSchema":{}}}"#, tool["description"], tool["inputSchema"])
        })
    );
    assert!(view.is_searchable() && !catalog.view("never").unwrap().is_searchable() && !catalog.is_searchable());
}

#[test]
fn a_tool_that_is_called_like_a_tool_for_searching_goes_by_its_server() {
    let servers = [server_of("default", "a", &["search_tools", "t"])];
    let always = view("default", "always", json!({"select": [{}], "search": "Always"}));
    let never = view("default", "never", json!({"select": [{}], "search": "Never"}));
    let catalog = catalog(&servers, &[always, never]);
    assert_eq!(names(catalog.view("never").unwrap()), ["search_tools", "t"]);
    let expected =
        ["a__search_tools", search_tools::CALL_TOOL, search_tools::DESCRIBE_TOOL, search_tools::SEARCH_TOOLS, "t"];
    assert_eq!(names(catalog.view("always").unwrap()), expected);
}

#[test]
fn a_server_of_another_namespace_is_in_a_view_only_if_it_allows_it() {
    let closed = {
        let key = ServerKey::new("shared", "closed");
        let spec = Server { name: key.public_name("default"), key, ..Server::from_url("closed", "http://closed/") };
        with_offer(spec, &["secret"])
    };
    let servers = [closed, server_of("shared", "open", &["t"])];
    let spec = json!({"select": [{"servers": {"namespaces": ["shared"]}}]});
    let catalog = catalog(&servers, &[view("team", "v", spec)]);
    assert_eq!(offered(catalog.view("team/v").unwrap()), [row("shared__t", &["shared/open"])]);
}

#[test]
fn what_a_view_does_not_hold_never_changes_it_and_the_same_bytes_come_in_any_order() {
    let (a, b) = (server_of("default", "a", &["t", "u"]), server_of("default", "b", &["v"]));
    let views = [view("default", "of-a", json!({"select": [{"servers": {"names": ["a"]}}]}))];
    let first = catalog(std::slice::from_ref(&a), &views);
    let second = rebuilt(&[b.clone(), a.clone()], &views, Some(&first));
    let merged = |catalog: &Catalog| catalog.view("of-a").unwrap().merged.clone();
    assert!(Arc::ptr_eq(&merged(&first), &merged(&second)), "another server is nothing to it");
    let fingerprint = |catalog: &Catalog| catalog.view("of-a").unwrap().fingerprint(Kind::Tools, Scope::All);
    assert_eq!(fingerprint(&first), fingerprint(&second));

    let other = view("default", "of-b", json!({"select": [{"servers": {"names": ["b"]}}]}));
    let third = rebuilt(&[a.clone(), b.clone()], &[views[0].clone(), other], Some(&second));
    assert!(Arc::ptr_eq(&merged(&second), &merged(&third)), "nor is another view");

    let grown = server_of("default", "a", &["t", "u", "w"]);
    let fourth = rebuilt(&[grown.clone(), b.clone()], &views, Some(&third));
    assert_ne!(fingerprint(&third), fingerprint(&fourth));
    let fresh = catalog(&[b, grown], &views);
    let page = |catalog: &Catalog| catalog.view("of-a").unwrap().page(Kind::Tools, Scope::All, None).unwrap();
    assert_eq!(page(&fourth), page(&fresh), "as if it had been built now");
    let gone = rebuilt(&[], &views, Some(&fourth));
    assert_eq!(names(gone.view("of-a").unwrap()), Vec::<String>::new());
}

#[test]
fn a_rule_that_names_views_allows_calls_through_them_alone() {
    let mut policies = Policies::default();
    let rules = json!([{"name": "r", "from": [{"subject": "agent"}], "allow": [{"tools": ["*"]}], "views": ["short", "team/v"]}]);
    let object = json!({"metadata": {"namespace": "default", "name": "p"}, "spec": {"rules": rules}});
    policies.insert(ReadPolicy::of(&object));
    let spec = policies.govern(Server::from_url("a", "http://a/"), &std::collections::BTreeMap::new());
    let servers = [with_offer(spec, &["t", "u"])];
    let short = view("default", "short", json!({"select": [{"tools": ["t"]}]}));
    let long = view("default", "long", json!({"select": [{}]}));
    let catalog = catalog(&servers, &[short, long]);
    let may = |catalog: &Arc<Catalog>, tool: &str| {
        let found = catalog.find_for(&identity("agent"), Kind::Tools, Scope::All, tool);
        found.map(|found| found.is_some()).unwrap_or_default()
    };
    let (short, long) = (catalog.view("short").unwrap(), catalog.view("long").unwrap());
    assert_eq!((may(&catalog, "t"), may(short, "t"), may(short, "u"), may(long, "t")), (false, true, false, false));
    // A caller's class is remembered for one address, and not used at another.
    assert_eq!((may(short, "t"), may(&catalog, "t"), may(long, "t"), may(short, "t")), (true, false, false, true));
    let seen = |catalog: &Arc<Catalog>| names(&catalog.seen_by(&identity("agent")));
    assert_eq!((seen(&catalog), seen(short), seen(long)), (vec![], vec!["t".to_owned()], vec![]));
}

#[test]
fn names_that_match_nothing_are_reported() {
    let servers = [server_of("default", "a", &["t"])];
    let spec = json!({
        "select": [{"servers": {"names": ["a", "b*"]}, "tools": ["t", "x_*"], "resources": ["y:*"]}],
        "exclude": [{"tools": ["z"]}],
        "tools": [{"name": "gone", "rename": "g"}, {"server": "a", "name": "t", "rename": "g"}],
    });
    let catalog = catalog(&servers, &[view("default", "v", spec)]);
    let report = catalog.view("v").unwrap().view_report().unwrap();
    let expected = ["resources: y:*", "servers.names: b*", "tools: gone", "tools: x_*", "tools: z"];
    assert_eq!(report.unmatched, expected);
}
