//! The server of a URI that several servers have, or none lists.

use serde_json::json;

use super::names::{Wanted, catalog_of, wanted};
use super::*;

const PAGE: &str = "ui://widget/main.html";

fn showing(namespace: &str, name: &str, uri: &str) -> Wanted {
    let tool = json!({"name": format!("show_{name}"), "inputSchema": {}, "_meta": {"ui": {"resourceUri": uri}}});
    wanted(namespace, name).tools([tool.to_string()]).software(None)
}

fn listing(server: Wanted, uri: &str) -> Wanted {
    let resource = json!({"uri": uri, "name": "view"}).to_string();
    Wanted { resources: [server.resources, vec![resource]].concat(), ..server }
}

/// The pages that the tools of a catalog name.
fn pages(catalog: &Catalog, scope: Scope<'_>) -> Vec<String> {
    let page = catalog.page(Kind::Tools, scope, None).unwrap();
    let page: serde_json::Value = serde_json::from_slice(&[b"{", &page[..], b"}"].concat()).unwrap();
    let uri = |tool: &serde_json::Value| tool["_meta"]["ui"]["resourceUri"].as_str().unwrap().to_owned();
    page["tools"].as_array().unwrap().iter().map(uri).collect()
}

fn who(catalog: &Catalog, scope: Scope<'_>, uri: &str) -> Option<(String, String)> {
    let entry = catalog.reader(scope, uri)?;
    let first = &entry.candidates[0];
    Some((first.server.key.to_string(), first.item.own_name.to_string()))
}

fn found(server: &str, uri: &str) -> Option<(String, String)> {
    Some((server.into(), uri.into()))
}

#[test]
fn of_two_pages_with_one_uri_each_is_shown_with_its_own_tool() {
    for list in [listing, |server, _: &str| server] {
        let servers = ["a", "b"].map(|name| list(showing("default", name, PAGE), PAGE));
        let catalog = catalog_of(Tenancy::Isolated, &servers);
        let [first, second] = &pages(&catalog, Scope::All)[..] else { panic!("two tools") };
        assert_eq!((first.as_str(), second.as_str()), (PAGE, "ui://~default.b/widget/main.html"));
        assert_eq!(who(&catalog, Scope::All, first), found("default/a", PAGE));
        assert_eq!(who(&catalog, Scope::All, second), found("default/b", PAGE));
        let b = catalog.server("b").unwrap();
        assert_eq!(pages(&catalog, Scope::Server(b)), [PAGE], "alone it has its own names");
        assert_eq!(who(&catalog, Scope::Server(b), PAGE), found("default/b", PAGE));
    }
    let catalog = catalog_of(Tenancy::Isolated, &["a", "b"].map(|name| listing(showing("default", name, PAGE), PAGE)));
    let listed: Vec<_> = catalog.listed(Kind::Resources).iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(listed, [PAGE, "ui://~default.b/widget/main.html"]);
    assert!(catalog.servers().iter().all(|server| catalog.place(server).hidden == 0));
}

#[test]
fn servers_of_one_software_have_their_own_pages_as_long_as_their_tools_are_not_the_same() {
    let servers = ["a", "b"].map(|name| listing(showing("default", name, PAGE), PAGE).software(Some("framework")));
    let catalog = catalog_of(Tenancy::Isolated, &servers);
    let own = "ui://~default.b/widget/main.html";
    assert_eq!(pages(&catalog, Scope::All), [PAGE, own]);
    assert_eq!(who(&catalog, Scope::All, PAGE), found("default/a", PAGE));
    assert_eq!(who(&catalog, Scope::All, own), found("default/b", PAGE));
    let entry = catalog.reader(Scope::All, PAGE).unwrap();
    assert_eq!(entry.candidates.len(), 1, "nobody stands in with another page");
}

#[test]
fn replicas_have_one_page_which_is_that_of_the_first() {
    let tool = json!({"name": "show", "inputSchema": {}, "_meta": {"ui": {"resourceUri": PAGE}}}).to_string();
    let replica = |name: &str| listing(wanted("default", name).tools([tool.clone()]), PAGE);
    let catalog = catalog_of(Tenancy::Isolated, &[replica("a"), replica("b")]);
    assert_eq!(pages(&catalog, Scope::All), [PAGE]);
    let entry = catalog.reader(Scope::All, PAGE).unwrap();
    let servers: Vec<_> = entry.candidates.iter().map(|one| one.server.name.as_str()).collect();
    assert_eq!((servers, entry.in_order), (vec!["a", "b"], true));
}

#[test]
fn resources_of_another_namespace_say_so_and_lead_to_it_alone() {
    let file = "file:///etc/motd";
    let template = json!({"uriTemplate": "db://{any}/rows/{id}", "name": "rows"}).to_string();
    let shop = Wanted { templates: vec![template], ..listing(showing("team-a", "shop", "ui://shop/x"), file) };
    let mallory = listing(showing("mallory", "x", "ui://shop/x"), file);
    let catalog = catalog_of(Tenancy::Isolated, &[shop, mallory]);
    let listed: Vec<_> = catalog.listed(Kind::Resources).iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(listed, ["file://~mallory//etc/motd", "file://~team-a//etc/motd"]);
    assert_eq!(pages(&catalog, Scope::All), ["ui://~mallory/shop/x", "ui://~team-a/shop/x"]);
    for (uri, expected) in [
        (file, None),
        ("ui://shop/x", None),
        ("db://one/rows/7", None),
        ("file://~team-a//etc/motd", found("team-a/shop", file)),
        ("file://~team-a.shop//etc/motd", found("team-a/shop", file)),
        ("file://~team-a.x//etc/motd", None),
        ("file://~mallory//etc/motd", found("mallory/x", file)),
        ("ui://~team-a/shop/x", found("team-a/shop", "ui://shop/x")),
        ("db://~team-a/one/rows/7", found("team-a/shop", "db://one/rows/7")),
        ("db://~mallory/one/rows/7", found("mallory/x", "db://one/rows/7")),
        ("db://~team-b/one/rows/7", None),
    ] {
        assert_eq!(who(&catalog, Scope::All, uri), expected, "{uri}");
    }
    let inside = Scope::Namespace("team-a");
    assert_eq!(pages(&catalog, inside), ["ui://shop/x"]);
    assert_eq!(who(&catalog, inside, file), found("team-a/shop", file));
    assert_eq!(who(&catalog, inside, "file://~mallory.x//etc/motd"), None);
}

#[test]
fn a_template_of_the_home_namespace_stands_for_no_uri_of_another() {
    let everything = json!({"uriTemplate": "db://{+any}", "name": "n"}).to_string();
    let home = Wanted { templates: vec![everything], ..wanted("default", "greedy") };
    let shop = listing(wanted("team-a", "shop"), "db://one/x");
    let catalog = catalog_of(Tenancy::Isolated, &[home, shop]);
    assert_eq!(who(&catalog, Scope::All, "db://one/x"), found("default/greedy", "db://one/x"));
    assert_eq!(who(&catalog, Scope::All, "db://~team-a/one/y"), found("team-a/shop", "db://one/y"));
    assert_eq!(who(&catalog, Scope::All, "db://~team-b/one/y"), None);
}

#[test]
fn what_a_result_names_is_renamed_only_where_it_would_lead_elsewhere() {
    let a = listing(listing(wanted("default", "a"), "own://a"), "report://a/index");
    let b = listing(listing(wanted("default", "b"), "other://b"), "report://a/index");
    let shop = listing(wanted("team-a", "shop"), "report://shop/1");
    let catalog = catalog_of(Tenancy::Isolated, &[a, b, shop]);
    let nobody = Entry { name: "t".into(), candidates: smallvec![], listed: true, in_order: false };
    let link = |scope, server: &str, uri: &str| catalog.link(scope, (catalog.server(server).unwrap(), &nobody), uri);
    let (all, inside) = (Scope::All, Scope::Namespace("team-a"));
    for (scope, server, uri, expected) in [
        (all, "a", "own://a/7", None),
        (all, "a", "report://a/index", None),
        (all, "a", "report://a/7", Some("report://~default.a/a/7")),
        (all, "a", "nowhere://a/7", Some("nowhere://~default.a/a/7")),
        (all, "b", "report://a/7", Some("report://~default.b/a/7")),
        (all, "b", "report://a/index", Some("report://~default.b/a/index")),
        (all, "b", "no uri", None),
        (all, "team-a/shop", "report://shop/1", Some("report://~team-a/shop/1")),
        (all, "team-a/shop", "own://a/7", Some("own://~team-a/a/7")),
        (inside, "team-a/shop", "report://shop/1", None),
        (inside, "team-a/shop", "new://shop/1", None),
        (Scope::Server(catalog.server("b").unwrap()), "b", "report://a/7", None),
    ] {
        assert_eq!(link(scope, server, uri).as_deref(), expected, "{server} {uri}");
    }
}
