//! The quick start of the README works.

use portcullis_e2e::cluster::{self, Tier};
use portcullis_e2e::require;

use crate::release::NodeRelease;

#[test]
fn the_quick_start_works_as_it_stands_in_the_readme() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let _release = NodeRelease::of(cluster).await;
        let said = crate::release::quick_start(cluster).stdout.clone();
        assert!(said.contains("Hello, cluster!"), "{said}");
    });
}

#[test]
fn helm_test_calls_the_release() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        let said = release.helm(&["test", "portcullis", "--logs", "--timeout=2m"]).good();
        assert!(said.contains("Succeeded"), "{said}");
    });
}
