//! The owner of each name, and the listed items.

mod explained;
mod governed;
mod names;
mod uris;
mod views;

use super::*;
use crate::offer::prompts_and_resources as plain;
use crate::offer::tools::read_tools;
use crate::server::handle::Offer;
use crate::telemetry::metrics::Metrics;
use portcullis_crds::mcpserver::ToolRules;
use portcullis_crds::{Server, ServerKey};
use portcullis_mcp::upstream::ServerCapabilities;

/// Every server reports the same software unless a test sets another.
fn software() -> Option<Arc<str>> {
    Some("mock".into())
}

fn server(name: &str, created: i64, tools: &[(&str, &str)], listed: bool) -> Arc<Handle> {
    let spec = Server { created, ..Server::from_url(name, &format!("http://{name}/")) };
    let handle = Handle::new(spec, &Metrics::new());
    let texts: Vec<String> = tools
        .iter()
        .map(|(tool, kind)| format!(r#"{{"name":"{tool}","inputSchema":{{"type":"object","title":"{kind}"}}}}"#))
        .collect();
    let tools = read_tools(texts.iter().map(String::as_str), &ToolRules::default()).shared();
    handle.set_offer(Offer { tools, listed, software: software(), ..Offer::default() });
    Arc::new(handle)
}

fn offered(catalog: &Catalog) -> Vec<(String, Vec<String>)> {
    let names = |entry: &Entry| entry.candidates.iter().map(|c| c.server.name.clone()).collect();
    catalog.listed(Kind::Tools).into_iter().map(|entry| (entry.name.to_string(), names(entry))).collect()
}

fn row(name: &str, servers: &[&str]) -> (String, Vec<String>) {
    (name.to_owned(), servers.iter().map(|s| (*s).to_owned()).collect())
}

#[test]
fn a_tool_of_one_name_and_schema_is_one_tool_and_the_older_server_keeps_a_contested_name() {
    let a = server("a", 2, &[("t", "x"), ("own", "x")], true);
    let b = server("b", 1, &[("t", "x")], true);
    let c = server("c", 3, &[("t", "y")], true);
    let catalog = Catalog::build(vec![c, a, b]);
    assert_eq!(offered(&catalog), [row("c__t", &["c"]), row("own", &["a"]), row("t", &["b", "a"])]);
    let renamed: Vec<_> =
        catalog.servers().iter().map(|server| (server.name.as_str(), catalog.place(server).renamed)).collect();
    assert_eq!(renamed, [("a", 0), ("b", 0), ("c", 1)]);
}

#[test]
fn adding_a_server_never_renames_what_exists() {
    let old = server("old", 1, &[("t", "x"), ("u", "x")], true);
    let new = server("new", 2, &[("t", "y"), ("old__t", "y"), ("v", "y")], true);
    let before = offered(&Catalog::build(vec![old.clone()]));
    let after = offered(&Catalog::build(vec![new, old]));
    assert!(before.iter().all(|row| after.contains(row)), "{before:?} {after:?}");
}

#[test]
fn a_server_that_is_away_keeps_its_names_without_being_listed() {
    let away = server("away", 1, &[("t", "x"), ("only", "x")], false);
    let here = server("here", 2, &[("t", "y")], true);
    let catalog = Catalog::build(vec![away, here]);
    assert_eq!(offered(&catalog), [row("here__t", &["here"])]);
    assert!(catalog.find(Kind::Tools, Scope::All, "only").is_some_and(|entry| !entry.listed));
    assert_eq!(catalog.count(Kind::Tools), 1);
}

#[test]
fn tools_taken_over_from_before_a_restart_are_shown_but_only_the_servers_own_ones_count() {
    let a = server("a", 0, &[("t", "x")], true);
    let taken_over = Catalog::build(vec![a.clone()]);
    assert_eq!((offered(&taken_over), taken_over.lists(&a)), (vec![row("t", &["a"])], false));

    a.has_told();
    assert!(!taken_over.lists(&a), "this view may lack what it has told");
    let own = Catalog::build(vec![a.clone()]);
    assert!(own.lists(&a));
    assert_eq!(own.since(&taken_over).servers.len(), 1, "others are told, though its tools are the same");
}

#[test]
fn the_listing_is_the_same_bytes_whatever_the_order_of_the_servers() {
    let a = server("a", 0, &[("t", "x")], true);
    let b = server("b", 0, &[("t", "x")], true);
    let expected = r#"{"tools":[{"name":"t","inputSchema":{"type":"object","title":"x"},"available_servers":["a","b"],"server_count":2}]}"#;
    assert_eq!(Catalog::build(vec![a.clone(), b.clone()]).listing(), expected);
    let catalog = Catalog::build(vec![b, a.clone()]);
    assert_eq!(catalog.listing(), expected);
    assert_eq!(catalog.listing_of(&a), r#"{"tools":[{"name":"t","inputSchema":{"type":"object","title":"x"}}]}"#);
    assert_eq!(Catalog::default().listing(), r#"{"tools":[]}"#);
}

#[test]
fn servers_are_found_by_name_by_url_and_by_bare_name_where_it_is_clear() {
    let named = |namespace: &str, name: &str| {
        let key = ServerKey::new(namespace, name);
        let spec =
            Server { name: key.public_name("default"), key, ..Server::from_url(name, &format!("http://{namespace}/")) };
        Arc::new(Handle::new(spec, &Metrics::new()))
    };
    let all = [("default", "a"), ("x", "a"), ("x", "b"), ("x", "c"), ("y", "c")];
    let all = all.map(|(namespace, name)| named(namespace, name));
    let [isolated, shared] = [Tenancy::Isolated, Tenancy::Shared].map(|it| Catalog::build_for(it, all.to_vec()));
    let found = |catalog: &Catalog, wanted: &str| catalog.server(wanted).map(|server| server.name.clone());
    let cases = [
        ("a", Some("a"), Some("a")),
        ("x/a", Some("x/a"), Some("x/a")),
        ("default/a", Some("a"), Some("a")),
        ("b", None, Some("x/b")),
        ("c", None, None),
        ("http://default/", Some("a"), Some("a")),
        ("http://y/", None, Some("y/c")),
        ("", None, None),
    ];
    for (wanted, alone, together) in cases {
        assert_eq!(found(&isolated, wanted).as_deref(), alone, "{wanted}");
        assert_eq!(found(&shared, wanted).as_deref(), together, "{wanted}");
    }
}

#[test]
fn a_server_alone_is_seen_with_the_names_that_it_offers() {
    let old = server("old", 1, &[("t", "x"), ("u", "x")], true);
    let new = server("new", 2, &[("t", "y"), ("v", "y")], true);
    let gone = server("gone", 3, &[("t", "y")], true);
    let away = server("away", 4, &[("w", "y")], false);
    let catalog = Catalog::build(vec![old.clone(), new.clone(), away.clone()]);
    let who = |scope, name| {
        let entry = catalog.find(Kind::Tools, scope, name)?;
        let servers: Vec<_> = entry.candidates.iter().map(|c| c.server.name.clone()).collect();
        Some((entry.name.to_string(), servers.join(","), entry.listed))
    };
    let found = |name: &str, server: &str, listed| Some((name.to_owned(), server.to_owned(), listed));
    assert_eq!(who(Scope::All, "t"), found("t", "old", true));
    assert_eq!(who(Scope::Server(&new), "t"), found("t", "new", true));
    assert_eq!((who(Scope::Server(&new), "new__t"), who(Scope::All, "new__t")), (None, found("new__t", "new", true)));
    assert_eq!((who(Scope::Server(&new), "u"), who(Scope::Server(&gone), "t")), (None, None));
    assert_eq!(who(Scope::Server(&away), "w"), found("w", "away", false));

    let page = |scope| catalog.page(Kind::Tools, scope, None).unwrap();
    let of = |name: &str| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object","title":"y"}}}}"#);
    assert_eq!(page(Scope::Server(&new)), format!(r#""tools":[{},{}]"#, of("t"), of("v")));
    assert_eq!(
        (page(Scope::Server(&away)), page(Scope::Server(&gone))),
        (r#""tools":[]"#.into(), r#""tools":[]"#.into())
    );
}

#[test]
fn pages_follow_each_other_over_changes_and_replicas() {
    let names: Vec<String> = (0..2_500).map(|i| format!("t{i:04}")).collect();
    let some = |range: std::ops::Range<usize>| {
        let tools: Vec<(&str, &str)> = names[range].iter().map(|name| (name.as_str(), "x")).collect();
        tools
    };
    let (a, b, c) = (
        server("a", 1, &some(0..1_000), true),
        server("b", 2, &some(1_000..2_000), true),
        server("c", 3, &some(2_000..2_500), true),
    );
    let all = Catalog::build(vec![a.clone(), b.clone(), c.clone()]);
    let read = |page: &Bytes| -> (Vec<String>, Option<String>) {
        let page: serde_json::Value = serde_json::from_slice(&[b"{", &page[..], b"}"].concat()).unwrap();
        let name = |tool: &serde_json::Value| tool["name"].as_str().unwrap().to_owned();
        (page["tools"].as_array().unwrap().iter().map(name).collect(), page["nextCursor"].as_str().map(str::to_owned))
    };
    let page = |catalog: &Catalog, cursor: Option<&str>| read(&catalog.page(Kind::Tools, Scope::All, cursor).unwrap());
    let (first, next) = page(&all, None);
    let (second, after) = page(&all, next.as_deref());
    let (third, end) = page(&all, after.as_deref());
    assert_eq!(([first, second, third].concat(), end), (names.clone(), None));
    assert_eq!(
        all.page(Kind::Tools, Scope::All, None).unwrap().as_ptr(),
        all.page(Kind::Tools, Scope::All, None).unwrap().as_ptr()
    );

    let fewer = Catalog::build(vec![b, c]);
    assert_eq!(page(&fewer, next.as_deref()).0, names[1_000..2_000], "nothing twice and nothing missed");
    let none = Catalog::build(vec![a]);
    assert_eq!(page(&none, next.as_deref()), (vec![], None));
    for cursor in ["", "%", "dDA5OTk=", "_w"] {
        let page = all.page(Kind::Tools, Scope::All, Some(cursor));
        assert_eq!(page.is_err(), !cursor.is_empty(), "{cursor}");
    }
}

#[test]
fn fingerprints_differ_when_and_only_when_the_lists_do() {
    let a = server("a", 1, &[("t", "x"), ("u", "x")], true);
    let b = server("b", 2, &[("t", "x")], true);
    let other = server("b", 2, &[("t", "z")], true);
    let of = |servers: &[&Arc<Handle>]| {
        let catalog = Catalog::build(servers.iter().map(|server| Arc::clone(server)).collect());
        catalog.fingerprint(Kind::Tools, Scope::All)
    };
    assert_eq!(of(&[&a]), of(&[&a, &b]), "another server with the same tool shows nothing new");
    assert_eq!(of(&[&b, &a]), of(&[&a, &b]));
    assert_ne!(of(&[&a, &other]), of(&[&a, &b]));
    assert_ne!(of(&[&a]), of(&[&b]));
    let catalog = Catalog::build(vec![a.clone(), other.clone()]);
    let alone = |server| catalog.fingerprint(Kind::Tools, Scope::Server(server));
    assert_ne!(alone(&a), alone(&other));
    assert_eq!(alone(&b), alone(&other), "a server is looked at by its key");
    let before = alone(&a);
    a.set_offer(Offer { listed: false, ..(*a.offer()).clone() });
    assert_eq!(alone(&a), before, "this view is as it was");
    assert_eq!(Catalog::build(vec![a.clone()]).fingerprint(Kind::Tools, Scope::Server(&a)), 0);
}

/// Offers a server's lists as their texts say: of prompts, resources and templates.
fn offers(server: &Arc<Handle>, prompts: &[&str], resources: &[&str], templates: &[&str]) {
    let read = |kind, texts: &[&str]| plain::read(kind, texts.iter().copied()).shared();
    let (prompts, resources) = (read(Kind::Prompts, prompts), read(Kind::Resources, resources));
    let templates = read(Kind::Templates, templates);
    let software = software();
    server.set_offer(Offer { prompts, resources, templates, software, listed: true, ..Offer::default() });
}

fn offered_of(catalog: &Catalog, kind: Kind) -> Vec<(String, Vec<String>)> {
    let names = |entry: &Entry| entry.candidates.iter().map(|c| c.server.name.clone()).collect();
    catalog.listed(kind).into_iter().map(|entry| (entry.name.to_string(), names(entry))).collect()
}

#[test]
fn prompts_are_renamed_as_tools_are_and_resources_of_one_uri_are_hidden_but_never_renamed() {
    let (a, b, c) = (server("a", 1, &[], true), server("b", 2, &[], true), server("c", 3, &[], true));
    let (plain, other) = (r#"{"name":"Ask it"}"#, r#"{"name":"Ask it","description":"another"}"#);
    let (file, odd) = (r#"{"uri":"f://x","name":"x"}"#, r#"{"uri":"f://x","name":"odd"}"#);
    let (pattern, strange) = (r#"{"uriTemplate":"f://{x}","name":"x"}"#, r#"{"uriTemplate":"f://{x}","name":"odd"}"#);
    offers(&a, &[plain], &[file], &[pattern]);
    offers(&b, &[plain], &[file], &[pattern]);
    offers(&c, &[other], &[odd, r#"{"uri":"f://own","name":"own"}"#], &[strange]);
    let catalog = Catalog::build(vec![c.clone(), b, a.clone()]);
    assert_eq!(offered_of(&catalog, Kind::Prompts), [row("Ask it", &["a", "b"]), row("c__Ask it", &["c"])]);
    assert_eq!(offered_of(&catalog, Kind::Resources), [row("f://own", &["c"]), row("f://x", &["a", "b"])]);
    assert_eq!(offered_of(&catalog, Kind::Templates), [row("f://{x}", &["a", "b"])]);
    let place = ServerSummary { listed: true, own: false, renamed: 0, shortened: 0, hidden: 2, disagreed: vec![] };
    assert_eq!((catalog.place(&c), catalog.place(&a)), (place.clone(), ServerSummary { hidden: 0, ..place }));

    let page = |kind, scope| String::from_utf8(catalog.page(kind, scope, None).unwrap().to_vec()).unwrap();
    assert_eq!(page(Kind::Prompts, Scope::Server(&a)), r#""prompts":[{"name":"Ask it"}]"#);
    let own = r#"{"uri":"f://own","name":"own"}"#;
    assert_eq!(page(Kind::Resources, Scope::All), format!(r#""resources":[{own},{file}]"#));
    assert_eq!(page(Kind::Resources, Scope::Server(&c)), format!(r#""resources":[{own},{odd}]"#));
    assert_eq!(page(Kind::Templates, Scope::All), format!(r#""resourceTemplates":[{pattern}]"#));
    assert_eq!(page(Kind::Templates, Scope::Server(&c)), format!(r#""resourceTemplates":[{strange}]"#));
}

#[test]
fn the_fingerprint_of_resources_covers_their_templates() {
    let a = server("a", 1, &[], true);
    let of = |templates: &[&str], kind| {
        offers(&a, &[], &[r#"{"uri":"f://x","name":"x"}"#], templates);
        let catalog = Catalog::build(vec![a.clone()]);
        (catalog.fingerprint(kind, Scope::All), catalog.fingerprint(kind, Scope::Server(&a)))
    };
    let template = [r#"{"uriTemplate":"f://{x}","name":"x"}"#];
    assert_eq!(of(&[], Kind::Resources).0, of(&[], Kind::Resources).1);
    assert_ne!(of(&[], Kind::Resources), of(&template, Kind::Resources));
    assert_eq!(of(&[], Kind::Prompts), of(&template, Kind::Prompts));
}

#[test]
fn a_uri_is_read_by_whoever_lists_it_or_has_a_template_for_it_or_is_of_its_place() {
    let (a, b, c) = (server("a", 1, &[], true), server("b", 2, &[], true), server("c", 3, &[], true));
    let none = server("none", 0, &[("t", "x")], true);
    let uri = |uri: &str| format!(r#"{{"uri":"{uri}","name":"n"}}"#);
    let template = |uri: &str, name: &str| format!(r#"{{"uriTemplate":"{uri}","name":"{name}"}}"#);
    offers(&a, &[], &[&uri("db://one/x"), &uri("shared://x/a")], &[&template("db://{any}/rows/{id}", "a")]);
    offers(
        &b,
        &[],
        &[&uri("db://two/x"), &uri("shared://x/b")],
        &[&template("db://{any}/rows/{id}", "b"), &template("db://two/{+rest}", "b")],
    );
    offers(&c, &[], &[], &[&template("db://{+everything}", "c"), &template("mem:{key}", "c")]);
    let catalog = Catalog::build(vec![none.clone(), c.clone(), b.clone(), a.clone()]);
    let who = |scope, uri: &str| {
        let entry = catalog.reader(scope, uri)?;
        assert!(entry.candidates.iter().all(|c| &*c.item.own_name == uri && c.item.repeatable), "{uri}");
        let names: Vec<_> = entry.candidates.iter().map(|c| c.server.name.as_str()).collect();
        Some(names.join(","))
    };
    let cases = [
        ("db://one/x", Some("a"), "it lists it"),
        ("db://two/rows/7", Some("a"), "its template comes first"),
        ("db://two/other/7", Some("b"), "its template is the next"),
        ("db://three/other", Some("c"), "only its template stands for it"),
        ("mem:7", Some("c"), "a template without an authority"),
        ("shared://x/c", None, "two have this place and none has a template"),
        ("unknown://x", None, "several have resources"),
    ];
    for (uri, expected, why) in cases {
        assert_eq!(who(Scope::All, uri).as_deref(), expected, "{uri}: {why}");
    }
    assert_eq!(who(Scope::Server(&b), "db://two/rows/7").as_deref(), Some("b"));
    assert_eq!(who(Scope::Server(&b), "unknown://x").as_deref(), Some("b"), "the server itself knows");
    assert_eq!(who(Scope::Server(&none), "db://one/x"), None);

    offers(&c, &[], &[&uri("own://x/a")], &[]);
    let catalog = Catalog::build(vec![none.clone(), c.clone(), b]);
    let who = |uri: &str| catalog.reader(Scope::All, uri).map(|entry| entry.candidates[0].server.name.clone());
    assert_eq!(who("own://x/unlisted").as_deref(), Some("c"), "its other resources are of the same place");
    assert_eq!(who("unknown://x"), None);
    let catalog = Catalog::build(vec![none, c]);
    let only = catalog.reader(Scope::All, "unknown://x").map(|entry| entry.candidates[0].server.name.clone());
    assert_eq!(only.as_deref(), Some("c"), "nobody else has resources");
}

#[test]
fn changes_are_told_by_the_first_that_is_there_and_does_so() {
    let servers = [server("a", 1, &[], true), server("b", 2, &[], true), server("c", 3, &[], true)];
    let update_source = |states: [(bool, bool); 3]| {
        for (server, (listed, subscribe)) in servers.iter().zip(states) {
            let templates = plain::read(Kind::Templates, [r#"{"uriTemplate":"x:{id}","name":"n"}"#]).shared();
            let capabilities = ServerCapabilities { resources_subscribe: subscribe, ..ServerCapabilities::default() };
            server.set_offer(Offer { templates, capabilities, listed, software: software(), ..Offer::default() });
        }
        let entry = Catalog::build(servers.to_vec()).reader(Scope::All, "x:1")?;
        assert_eq!(entry.candidates.len(), 3);
        entry.update_source().map(|candidate| candidate.server.name.clone())
    };
    let (there, away, mute) = ((true, true), (false, true), (true, false));
    assert_eq!(update_source([there, there, there]).as_deref(), Some("a"));
    assert_eq!(update_source([away, mute, there]).as_deref(), Some("c"));
    assert_eq!(update_source([mute, away, mute]).as_deref(), Some("b"));
    assert_eq!(update_source([mute, mute, mute]), None);
}

#[test]
fn a_more_literal_template_of_a_server_comes_first() {
    let a = server("a", 1, &[], true);
    let template = |uri: &str| format!(r#"{{"uriTemplate":"{uri}","name":"n"}}"#);
    offers(&a, &[], &[], &[&template("f://{+a}"), &template("f://files/{+a}"), &template("f://{a}/{b}")]);
    let catalog = Catalog::build(vec![a]);
    let order: Vec<_> = catalog.table(Kind::Templates).in_order().map(|name| &**name).collect();
    assert_eq!(order, ["f://files/{+a}", "f://{a}/{b}", "f://{+a}"]);
}

#[test]
fn tools_are_found_by_their_full_names_too_where_they_are_shortened() {
    let long = "n".repeat(70);
    let old = server("old", 1, &[(&long, "x"), ("has space", "x")], true);
    let new = server("new", 2, &[(&long, "y")], true);
    let catalog = Catalog::build(vec![old.clone(), new.clone()]);
    let second = format!("new__{long}");
    let (short, third) = (short_form(&long), short_form(&second));
    let mut expected = [row(&short, &["old"]), row(&short_form("has space"), &["old"]), row(&third, &["new"])];
    expected.sort();
    assert_eq!(offered(&catalog), expected);
    let found = |scope, name: &str| catalog.find(Kind::Tools, scope, name).map(|entry| entry.name.to_string());
    for (name, wanted) in [(&long, &short), (&short, &short), (&second, &third), (&third, &third)] {
        assert_eq!(found(Scope::All, name).as_ref(), Some(wanted), "{name}");
    }
    assert_eq!(
        (found(Scope::Server(&new), &long), found(Scope::Server(&new), &short)),
        (Some(short.clone()), Some(short))
    );
    assert_eq!(found(Scope::All, &"m".repeat(70)), None);
    let places = [&old, &new].map(|server| (catalog.place(server).shortened, catalog.place(server).renamed));
    assert_eq!(places, [(2, 0), (1, 1)]);
}
