//! Names of servers: the shared ones, and those that no namespace can take from another.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A server as a test describes it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) created: i64,
    pub(crate) pool: Option<String>,
    pub(crate) software: Option<&'static str>,
    pub(crate) tools: Vec<String>,
    pub(crate) prompts: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) templates: Vec<String>,
}

pub(super) fn wanted(namespace: &str, name: &str) -> Wanted {
    Wanted {
        namespace: namespace.into(),
        name: name.into(),
        created: 0,
        pool: None,
        software: Some("software"),
        tools: Vec::new(),
        prompts: Vec::new(),
        resources: Vec::new(),
        templates: Vec::new(),
    }
}

impl Wanted {
    pub(super) fn tools(self, tools: impl IntoIterator<Item = String>) -> Self {
        Self { tools: tools.into_iter().collect(), ..self }
    }

    pub(super) fn software(self, software: Option<&'static str>) -> Self {
        Self { software, ..self }
    }

    fn pool(self, pool: &str) -> Self {
        Self { pool: Some(pool.into()), ..self }
    }

    fn created(self, created: i64) -> Self {
        Self { created, ..self }
    }

    pub(super) fn handle(&self) -> Arc<Handle> {
        static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
        let key = ServerKey::new(&self.namespace, &self.name);
        let spec = Server {
            name: key.public_name("default"),
            key,
            created: self.created,
            pool: self.pool.clone(),
            ..Server::from_url(&self.name, "http://x/")
        };
        let handle = Arc::new(Handle::new(spec, &METRICS));
        let texts = |texts: &[String]| texts.to_vec();
        let plain = |kind, all: &[String]| plain::read(kind, texts(all).iter().map(String::as_str)).shared();
        let tools = read_tools(self.tools.iter().map(String::as_str), &ToolRules::default()).shared();
        handle.set_offer(Offer {
            tools,
            prompts: plain(Kind::Prompts, &self.prompts),
            resources: plain(Kind::Resources, &self.resources),
            templates: plain(Kind::Templates, &self.templates),
            software: self.software.map(Into::into),
            listed: true,
            ..Offer::default()
        });
        handle
    }
}

pub(super) fn catalog_of(tenancy: Tenancy, wanted: &[Wanted]) -> Catalog {
    Catalog::build_for(tenancy, wanted.iter().map(Wanted::handle).collect())
}

fn tool(name: &str, description: &str) -> String {
    with_schema(name, description, "x")
}

fn with_schema(name: &str, description: &str, title: &str) -> String {
    json!({"name": name, "description": description, "inputSchema": {"type": "object", "title": title}}).to_string()
}

fn names(catalog: &Catalog, scope: Scope<'_>) -> BTreeMap<String, Vec<String>> {
    let entries: Vec<&Entry> = match scope {
        Scope::Server(_) => panic!("of several"),
        scope => catalog.combined(scope).unwrap().table(Kind::Tools).listed().collect(),
    };
    let servers = |entry: &Entry| entry.candidates.iter().map(|c| c.server.key.to_string()).collect();
    entries.into_iter().map(|entry| (entry.name.to_string(), servers(entry))).collect()
}

fn rows(rows: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let row = |(name, servers): &(&str, &[&str])| {
        ((*name).to_owned(), servers.iter().map(|server| (*server).to_owned()).collect())
    };
    rows.iter().map(row).collect()
}

#[test]
fn servers_share_a_tool_only_if_it_and_they_are_the_same() {
    let search = tool("search", "Searches");
    let of = |others: Wanted| {
        let first = wanted("default", "a").tools([search.clone()]);
        names(&catalog_of(Tenancy::Isolated, &[first, others]), Scope::All)
    };
    let shared = rows(&[("search", &["default/a", "default/b"])]);
    let apart = rows(&[("search", &["default/a"]), ("b__search", &["default/b"])]);
    let b = || wanted("default", "b").tools([search.clone()]);
    assert_eq!(of(b()), shared);
    assert_eq!(of(b().software(Some("another"))), apart, "they call themselves differently");
    assert_eq!(of(b().software(None)), apart, "one does not say what it is");
    assert_eq!(of(b().pool("p")), apart, "one is of a pool");
    let others = [
        ("description", json!("Searches elsewhere")),
        ("title", json!("Search")),
        ("inputSchema", json!({"type": "object", "title": "y"})),
        ("outputSchema", json!({"type": "object"})),
        ("annotations", json!({"readOnlyHint": true})),
        ("_meta", json!({"x": 1})),
        ("execution", json!({"taskSupport": "optional"})),
        ("icons", json!([{"src": "https://example.com/icon.png"}])),
        ("x-unknown", json!(1)),
    ];
    for (member, value) in others {
        let mut text: serde_json::Value = serde_json::from_str(&search).unwrap();
        text[member] = value;
        assert_eq!(of(b().tools([text.to_string()])), apart, "{member} is another");
    }
    let turned = r#"{"inputSchema":{"title":"x","type":"object"},"description":"Searches","name":"search"}"#;
    assert_eq!(of(b().tools([turned.to_owned()])), shared, "the order of members does not matter");
}

#[test]
fn a_declared_pool_shares_tools_of_one_schema_and_says_on_which_it_does_not_agree() {
    let member = |name: &str, created, tools: [String; 2]| {
        wanted("default", name).created(created).pool("p").software(None).tools(tools)
    };
    let old = member("old", 1, [tool("t", "old"), tool("u", "old")]);
    let new = member("new", 2, [tool("t", "new"), with_schema("u", "new", "other")]);
    let foreign = wanted("team-a", "x").pool("p").tools([tool("t", "old")]);
    let another = wanted("default", "z").created(3).pool("q").software(None).tools([tool("t", "old")]);
    let catalog = catalog_of(Tenancy::Isolated, &[old, new, foreign, another]);
    let expected = rows(&[
        ("t", &["default/old", "default/new"]),
        ("u", &["default/old"]),
        ("new__u", &["default/new"]),
        ("z__t", &["default/z"]),
        ("team-a__t", &["team-a/x"]),
    ]);
    assert_eq!(names(&catalog, Scope::All), expected);
    let disagreed: Vec<_> = catalog.servers().iter().map(|server| catalog.place(server).disagreed).collect();
    assert_eq!(disagreed, [vec!["u".into()], vec![], vec![], vec![]]);
}

#[test]
fn a_name_says_its_namespace_and_a_name_that_looks_like_it_gives_way() {
    let pay = |who: &str| tool("pay", who);
    let all = [
        wanted("default", "bank").tools([pay("bank"), tool("team-a__pay", "bank"), tool("other__pay", "bank")]),
        wanted("team-a", "shop").tools([pay("shop")]),
        wanted("team-a", "second").created(9).tools([pay("second")]),
        wanted("mallory", "x").tools([pay("shop"), tool("has space", "x"), tool("a.b", "x")]),
        wanted("mallory", "team-a").created(9).tools([tool("_pay", "x"), tool("team-a__pay", "x")]),
    ];
    let catalog = catalog_of(Tenancy::Isolated, &all);
    let expected = rows(&[
        ("pay", &["default/bank"]),
        ("other__pay", &["default/bank"]),
        ("bank__team-a__pay", &["default/bank"]),
        ("team-a__pay", &["team-a/shop"]),
        ("team-a_second__pay", &["team-a/second"]),
        ("mallory__pay", &["mallory/x"]),
        (&short_form("mallory__has space"), &["mallory/x"]),
        (&short_form("mallory__a.b"), &["mallory/x"]),
        ("mallory___pay", &["mallory/team-a"]),
        ("mallory__team-a__pay", &["mallory/team-a"]),
    ]);
    assert_eq!(names(&catalog, Scope::All), expected);
    let found = catalog.find(Kind::Tools, Scope::All, "mallory__a.b").map(|entry| entry.name.to_string());
    assert_eq!(found, Some(short_form("mallory__a.b")), "the whole name is taken as well");
    let places = |name: &str| {
        let server = catalog.server(name).unwrap();
        (catalog.place(server).renamed, catalog.place(server).shortened)
    };
    assert_eq!([places("bank"), places("team-a/second"), places("mallory/x")], [(1, 0), (1, 0), (0, 2)]);

    let own = rows(&[("pay", &["team-a/shop"]), ("second__pay", &["team-a/second"])]);
    assert_eq!(names(&catalog, Scope::Namespace("team-a")), own);
    assert!(catalog.has_namespace("team-a") && !catalog.has_namespace("team-b"));
    assert!(catalog.page(Kind::Tools, Scope::Namespace("team-b"), None).unwrap().ends_with(b"[]"));
}

#[test]
fn with_one_team_all_names_stand_side_by_side_but_namespaces_still_share_nothing() {
    let pay = || [tool("pay", "pays")];
    let all = [
        wanted("a", "one").created(1).tools(pay()),
        wanted("b", "one").created(2).pool("p").tools(pay()),
        wanted("c", "one").created(3).pool("p").tools(pay()),
        wanted("c", "two").created(4).pool("p").tools(pay()),
        wanted("default", "home").created(5).tools(pay()),
    ];
    let expected = rows(&[
        ("pay", &["a/one"]),
        ("one__pay", &["b/one"]),
        ("c_one__pay", &["c/one"]),
        ("two__pay", &["c/two"]),
        ("home__pay", &["default/home"]),
    ]);
    assert_eq!(names(&catalog_of(Tenancy::Shared, &all), Scope::All), expected);
}

// === names that no namespace can take from another ===

fn namespaces() -> [String; 5] {
    ["default".into(), "a".into(), "a-b".into(), "team-a".into(), "n".repeat(63)]
}

/// Names that look like those of others.
fn any_name() -> impl Strategy<Value = String> {
    let label = naming_label(&"n".repeat(63));
    let fronts = ["", "a__", "a_x__", "team-a__", "team-a_pay__", "default__", "default_x__", "x__", "a_"];
    let fronts = fronts.map(str::to_owned).into_iter().chain([format!("{label}__"), format!("{label}_x__")]);
    let ends = ["pay".to_owned(), "_pay".into(), "a__pay".into(), "has space".into(), "p.q".into(), "n".repeat(60)];
    let whole = (prop::sample::select(fronts.collect::<Vec<_>>()), prop::sample::select(ends.to_vec()));
    whole.prop_flat_map(|(front, end)| {
        let name = format!("{front}{end}");
        prop_oneof![3 => Just(name.clone()), 1 => Just(short_form(&name))]
    })
}

/// The label at the start of a namespace's names.
fn naming_label(namespace: &str) -> String {
    let server = wanted(namespace, "x").tools([tool("t", "t")]);
    let all = catalog_of(Tenancy::Isolated, &[server]);
    let name = names(&all, Scope::All).into_keys().next().unwrap();
    name.strip_suffix("__t").unwrap().to_owned()
}

fn any_uri() -> impl Strategy<Value = String> {
    let fronts = ["", "~a/", "~a.x/", "~team-a/", "~default/", "~default.x/", "~a/~team-a/"];
    let ends = ["one/x", "one/y", "two/x"];
    let schemes = ["db://", "ui://", "mem:"];
    let select = prop::sample::select::<&'static str>;
    (select(schemes.to_vec()), select(fronts.to_vec()), select(ends.to_vec()))
        .prop_map(|(scheme, front, end)| format!("{scheme}{front}{end}"))
}

fn any_server() -> impl Strategy<Value = Wanted> {
    let short = ["x", "a", "team-a", "default", "pay"].map(str::to_owned);
    let names = prop::sample::select([&short[..], &["s".repeat(63)]].concat());
    let tool = (any_name(), 0..2u8, any_uri()).prop_map(|(name, title, uri)| {
        let schema = json!({"type": "object", "title": title});
        json!({"name": name, "inputSchema": schema, "_meta": {"ui": {"resourceUri": uri}}}).to_string()
    });
    let prompt = any_name().prop_map(|name| json!({"name": name}).to_string());
    let resource = any_uri().prop_map(|uri| json!({"uri": uri, "name": "n"}).to_string());
    let template =
        any_uri().prop_map(|uri| json!({"uriTemplate": format!("{uri}/{{+rest}}"), "name": "n"}).to_string());
    let wide = Just(json!({"uriTemplate": "db://{+rest}", "name": "n"}).to_string());
    let some = |one: BoxedStrategy<String>| prop::collection::vec(one, 0..3);
    (
        (0..5usize, names, 0..3i64, prop::option::of(Just("p".to_owned())), any::<bool>()),
        (some(tool.boxed()), some(prompt.boxed()), some(resource.boxed())),
        some(prop_oneof![2 => template, 1 => wide].boxed()),
    )
        .prop_map(|((namespace, name, created, pool, known), (tools, prompts, resources), templates)| Wanted {
            namespace: namespaces()[namespace].clone(),
            name,
            created,
            pool,
            software: known.then_some("software"),
            tools,
            prompts,
            resources,
            templates,
        })
}

/// The servers that teams have at some time. Each namespace has at least one server.
fn any_world() -> impl Strategy<Value = Vec<Wanted>> {
    prop::collection::vec(any_server(), 0..7).prop_map(|mut servers| {
        servers.extend(namespaces().map(|namespace| wanted(&namespace, "anchor")));
        servers.sort_by_key(|server| (server.namespace.clone(), server.name.clone()));
        servers.dedup_by_key(|server| (server.namespace.clone(), server.name.clone()));
        servers
    })
}

/// Every name that one of the catalogs lists.
fn all_names(catalogs: &[Catalog], kind: Kind) -> Vec<String> {
    catalogs.iter().flat_map(|catalog| catalog.listed(kind)).map(|entry| entry.name.to_string()).collect()
}

fn namespace_of(entry: &Entry) -> String {
    let namespace = entry.candidates[0].server.key.namespace.clone();
    assert!(entry.candidates.iter().all(|one| one.server.key.namespace == namespace), "{} is of several", entry.name);
    namespace
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn whatever_teams_write_a_name_of_one_is_never_another_ones(
        worlds in (any_world(), any_world()),
        names in prop::collection::vec(any_name(), 8),
        uris in prop::collection::vec(any_uri(), 8),
    ) {
        let catalogs = [&worlds.0, &worlds.1].map(|world| catalog_of(Tenancy::Isolated, world));
        for kind in [Kind::Tools, Kind::Prompts] {
            for name in names.iter().cloned().chain(all_names(&catalogs, kind)) {
                let [before, after] = catalogs.each_ref().map(|catalog| {
                    catalog.find(kind, Scope::All, &name).map(|entry| namespace_of(&entry))
                });
                if let (Some(before), Some(after)) = (before, after) {
                    prop_assert_eq!(before, after, "{:?} {}", kind, name);
                }
            }
        }
        let listed = [Kind::Resources, Kind::Templates].map(|kind| all_names(&catalogs, kind)).concat();
        for uri in uris.into_iter().chain(listed) {
            let [before, after] = catalogs.each_ref().map(|catalog| {
                catalog.reader(Scope::All, &uri).map(|entry| namespace_of(&entry))
            });
            if let (Some(before), Some(after)) = (before, after) {
                prop_assert_eq!(before, after, "{}", uri);
            }
        }
    }

    #[test]
    fn names_that_the_gateway_makes_are_taken_by_every_client_and_say_their_namespace(world in any_world()) {
        let catalog = catalog_of(Tenancy::Isolated, &world);
        for entry in catalog.listed(Kind::Tools) {
            let is_own = *entry.name == *entry.candidates[0].item.name;
            prop_assert!(is_own || is_makeable(&entry.name), "{}", entry.name);
            let spaced = !entry.candidates[0].server.spec().is_home();
            prop_assert!(!is_own || !spaced || entry.name.contains("__"), "{}", entry.name);
        }
    }

    #[test]
    fn a_tool_shows_the_page_of_its_own_server(world in any_world()) {
        for tenancy in [Tenancy::Isolated, Tenancy::Shared] {
            let catalog = catalog_of(tenancy, &world);
            for entry in catalog.listed(Kind::Tools) {
                let shown = &entry.candidates[0];
                let uris = crate::offer::links::of_members(&shown.item.members);
                for link in &uris {
                    let reader = catalog.reader(Scope::All, &link.uri);
                    let reader = reader.and_then(|read| read.first().map(|reader| entry.is_of(reader)));
                    prop_assert_eq!(reader, Some(true), "{} of {}", link.uri, shown.server.key);
                }
            }
        }
    }
}
