//! Compares generated files with the code. `cargo xtask generate` writes them.

use xtask::generate::check;

/// The paths that a template of the chart reads: Helm never upgrades its own folder for definitions.
const FOLDER: &str = "helm/portcullis/files";

#[test]
fn the_definitions_are_up_to_date() {
    let definitions = [
        ("mcpservers.portcullis.dev", portcullis_crds::crd::yaml()),
        ("mcpaccesspolicies.portcullis.dev", portcullis_crds::crd::policy_yaml()),
        ("mcpviews.portcullis.dev", portcullis_crds::crd::view_yaml()),
    ];
    for (name, yaml) in definitions {
        // What `kubectl apply` keeps in an annotation may be 256 KiB; a definition should stay far from that.
        assert!(yaml.len() < 64 * 1024, "the definition has {} bytes", yaml.len());
        check(&format!("{FOLDER}/{name}.yaml"), &yaml);
    }
}

#[test]
fn the_reference_of_mcpserver_is_up_to_date() {
    check("docs/mcpserver.md", &super::reference::page());
}

#[test]
fn the_reference_of_mcpview_is_up_to_date() {
    check("docs/mcpview.md", &super::reference::view_page());
}

#[test]
fn the_page_of_conditions_is_up_to_date() {
    check("docs/troubleshooting.md", &super::troubleshooting::page());
}

#[test]
fn the_page_of_the_operators_metrics_is_up_to_date() {
    check("docs/operator-metrics.md", &super::metrics::page());
}
