//! All rights of an installed chart's service accounts, as the API server reports them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portcullis_e2e::cluster::{TestNamespace, Tier, available, control_plane};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;

use crate::release::ChartRelease;

/// One line of rights: resource, names, verbs.
type Right = (String, String, String);

/// The rights of a service account in a namespace beyond those of every account.
fn rights(space: &TestNamespace<'_>, account: &str, namespace: &str) -> BTreeSet<Right> {
    let list = |account: &str| -> BTreeSet<Right> {
        let user = format!("--as=system:serviceaccount:{account}");
        let said =
            space.cluster.kubectl(&["auth", "can-i", "--list", "--no-headers", &user, "--namespace", namespace]).good();
        said.lines().filter_map(right).collect()
    };
    let anybody = list("nowhere:nobody");
    list(&format!("{}:{account}", space.name)).difference(&anybody).cloned().collect()
}

/// A line is RESOURCE [NON-RESOURCE URLS] [NAMES] [VERBS].
fn right(line: &str) -> Option<Right> {
    let (resource, rest) = line.split_once(' ')?;
    let mut lists = rest.split(['[', ']']).skip(1).step_by(2);
    let (_, names, verbs) = (lists.next()?, lists.next()?, lists.next()?);
    let mut verbs: Vec<&str> = verbs.split(' ').collect();
    verbs.sort_unstable();
    Some((resource.to_owned(), names.to_owned(), verbs.join(" ")))
}

fn wanted<const N: usize>(lines: [(&str, &str, &str); N]) -> BTreeSet<Right> {
    lines.into_iter().map(|(resource, names, verbs)| (resource.into(), names.into(), verbs.into())).collect()
}

fn own_of_operator() -> BTreeSet<Right> {
    wanted([
        ("configmaps", "portcullis-servers-2-0", "create get list patch watch"),
        ("configmaps", "portcullis-servers-2-1", "create get list patch watch"),
        ("configmaps", "portcullis-keys", "create patch"),
        ("leases.coordination.k8s.io", "portcullis-operator", "get patch update"),
        ("leases.coordination.k8s.io", "", "create"),
        ("endpointslices.discovery.k8s.io", "", "get list watch"),
    ])
}

fn watched_by_operator() -> BTreeSet<Right> {
    wanted([
        ("mcpservers.portcullis.dev", "", "get list watch"),
        ("mcpservers.portcullis.dev/status", "", "patch"),
        ("mcpaccesspolicies.portcullis.dev", "", "get list watch"),
        ("mcpaccesspolicies.portcullis.dev/status", "", "patch"),
        ("mcpviews.portcullis.dev", "", "get list watch"),
        ("mcpviews.portcullis.dev/status", "", "patch"),
        ("services", "", "get list watch"),
        ("events.events.k8s.io", "", "create patch"),
    ])
}

fn own_of_gateway() -> BTreeSet<Right> {
    wanted([
        ("configmaps", "portcullis-servers-2-0", "get list watch"),
        ("configmaps", "portcullis-servers-2-1", "get list watch"),
        ("serviceaccounts/token", "portcullis-gateway", "create"),
    ])
}

fn credentials() -> BTreeSet<Right> {
    wanted([("secrets", "", "get list watch"), ("configmaps", "", "get list watch")])
}

fn both(one: BTreeSet<Right>, other: BTreeSet<Right>) -> BTreeSet<Right> {
    one.into_iter().chain(other).collect()
}

/// The rights in the release's namespace, in a listed one and in another.
fn table(space: &TestNamespace<'_>, account: &str, listed: &str) -> [BTreeSet<Right>; 3] {
    [&space.name, listed, "kube-system"].map(|namespace| rights(space, account, namespace))
}

#[tokio::test]
async fn with_a_list_of_namespaces_nothing_is_granted_elsewhere() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let (team, other) = (format!("{}-team", space.name), format!("{}-other", space.name));
    for name in [&team, &other] {
        space.cluster.kubectl(&["create", "namespace", name]).good();
    }
    let release = ChartRelease::install(
        &space,
        &[
            "--set",
            "snapshot.slots=2",
            "--set",
            &format!("watch.namespaces={{{team}}}"),
            "--set",
            &format!("credentials.namespaces={{{other}}}"),
        ],
    );
    let nothing = BTreeSet::new();
    assert_eq!(
        table(&space, "portcullis-operator", &team),
        [own_of_operator(), watched_by_operator(), nothing.clone()]
    );
    assert_eq!(table(&space, "portcullis-gateway", &other), [own_of_gateway(), credentials(), nothing.clone()]);
    assert_eq!(rights(&space, "portcullis-gateway", &team), nothing);
    drop(release);
}

#[tokio::test]
async fn with_all_namespaces_the_operator_still_sees_no_secret() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let release = ChartRelease::install(&space, &["--set", "snapshot.slots=2"]);
    let operator = [both(own_of_operator(), watched_by_operator()), watched_by_operator(), watched_by_operator()];
    assert_eq!(table(&space, "portcullis-operator", "default"), operator);
    assert_eq!(table(&space, "portcullis-gateway", "default"), [own_of_gateway(), BTreeSet::new(), BTreeSet::new()]);
    drop(release);
}

#[tokio::test]
async fn a_selector_and_token_reviews_and_all_credentials_add_just_that() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let release = ChartRelease::install(
        &space,
        &[
            "--set",
            "snapshot.slots=2",
            "--set",
            "watch.namespaceSelector=portcullis=enabled",
            "--set",
            "credentials.namespaces={*}",
            "--set",
            "auth.kubernetes.tokenReview=true",
        ],
    );
    let operator = both(watched_by_operator(), wanted([("namespaces", "", "get list watch")]));
    assert_eq!(rights(&space, "portcullis-operator", "default"), operator);
    let gateway = both(credentials(), wanted([("tokenreviews.authentication.k8s.io", "", "create")]));
    assert_eq!(rights(&space, "portcullis-gateway", "default"), gateway);
    drop(release);
}

/// Kubernetes cannot tell by `can-i --list` how names and verbs go together, so this does what the programs do.
#[tokio::test]
async fn slots_and_tokens_are_written_and_requested_by_name_alone() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let release = ChartRelease::install(&space, &[]);
    let operator = format!("--as=system:serviceaccount:{}:portcullis-operator", space.name);
    let gateway = format!("--as=system:serviceaccount:{}:portcullis-gateway", space.name);
    let get = |who: &str, more: &[&str]| {
        let mut all = vec!["get", "configmaps", who, "--namespace", &space.name];
        all.extend(more);
        space.cluster.kubectl(&all)
    };
    for who in [&operator, &gateway] {
        get(who, &["--field-selector", "metadata.name=portcullis-servers-4-3"]).good();
        assert!(get(who, &[]).bad().contains("Forbidden"));
        assert!(get(who, &["kube-root-ca.crt"]).bad().contains("Forbidden"));
    }
    // Also a missing one: writing it again needs the verb create.
    // Tokens of the gateway's own account, and of no other.
    for (account, is_own) in [("portcullis-gateway", true), ("portcullis-operator", false), ("default", false)] {
        let said = space.cluster.kubectl(&[
            "create",
            "token",
            account,
            "--audience",
            "http://search.team.svc",
            &gateway,
            "--namespace",
            &space.name,
        ]);
        if is_own { drop(said.good()) } else { assert!(said.bad().contains("is forbidden")) }
    }
    release.delete("configmap", "portcullis-servers-4-0");
    release.write_slot("portcullis-servers-4-0", &operator).good();
    assert!(release.write_slot("portcullis-servers-4-0", &gateway).bad().contains("Forbidden"));
    assert!(release.write_slot("portcullis-other", &operator).bad().contains("Forbidden"));
}

#[tokio::test]
async fn those_who_may_edit_a_namespace_may_edit_its_servers_and_policies() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let _release = ChartRelease::install(&space, &[]);
    let roles = BTreeMap::from([
        ("view", "get list watch"),
        ("edit", "create delete deletecollection get list patch update watch"),
    ]);
    for (role, verbs) in roles {
        let user = format!("{}:{role}", space.name);
        space.cluster.kubectl(&["create", "serviceaccount", role, "--namespace", &space.name]).good();
        let account = format!("--serviceaccount={user}");
        let role_argument = format!("--clusterrole={role}");
        space
            .cluster
            .kubectl(&["create", "rolebinding", role, &role_argument, &account, "--namespace", &space.name])
            .good();
        // The roles are gathered by a controller, a moment later.
        for of in ["mcpservers.portcullis.dev", "mcpaccesspolicies.portcullis.dev", "mcpviews.portcullis.dev"] {
            let found = || {
                let all = rights(&space, role, &space.name);
                all.into_iter().find(|(resource, _, _)| resource == of).map(|right| right.2)
            };
            let what = format!("the role {role} to include {of}");
            wait_for(&what, Duration::from_secs(30), async || {
                (found().as_deref() == Some(verbs)).then_some(()).ok_or_else(found)
            })
            .await;
        }
    }
}
