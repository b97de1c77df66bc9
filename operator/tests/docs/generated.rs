//! Files that are written from the code. `cargo xtask generate` writes them; otherwise they are compared.

use xtask::generate::check;

/// Where a template of the chart reads it: Helm never upgrades what lies in its own folder for definitions.
const DEFINITION: &str = "helm/portcullis/files/mcpservers.portcullis.dev.yaml";

#[test]
fn the_definition_of_mcpserver_is_up_to_date() {
    let yaml = portcullis_crds::crd::yaml();
    // What `kubectl apply` keeps in an annotation may be 256 KiB; a definition should stay far from that.
    assert!(yaml.len() < 64 * 1024, "the definition has {} bytes", yaml.len());
    check(DEFINITION, &yaml);
}

#[test]
fn the_reference_of_mcpserver_is_up_to_date() {
    check("docs/mcpserver.md", &super::reference::page());
}

#[test]
fn the_page_of_conditions_is_up_to_date() {
    check("docs/troubleshooting.md", &super::troubleshooting::page());
}

#[test]
fn the_page_of_the_operators_metrics_is_up_to_date() {
    check("docs/operator-metrics.md", &super::metrics::page());
}
