//! The Kubernetes for end-to-end tests: whether it is built, and building it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::generate::{repository, target};
use crate::process::{command, run};
use crate::real_servers::{self, Source};
use crate::skip::Skip;

/// The image that the chart runs unless told otherwise.
const IMAGE: &str = concat!("ghcr.io/portcullis-dev/portcullis:", env!("CARGO_PKG_VERSION"));

/// Names a cluster of your own, to be used instead of the kit's control plane. Not `KUBECONFIG` itself, which may name a
/// cluster that nobody wants tests in.
pub const KUBECONFIG: &str = "PORTCULLIS_TEST_KUBECONFIG";

/// The id of a process in the network of a node of that cluster, to be used instead of the kit's node: the images are
/// there already, and the kubeconfig is good in that network.
pub const NODE: &str = "PORTCULLIS_TEST_NODE";

/// How much of a cluster a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// etcd, API server and controller manager, on free ports of 127.0.0.1.
    ControlPlane,
    /// A full node that runs pods; needs root.
    Node,
}

impl Tier {
    /// Both.
    pub const ALL: [Self; 2] = [Self::ControlPlane, Self::Node];

    /// The name in skip lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Node => "full-cluster",
        }
    }

    /// Whether a cluster of your own is used for it.
    pub fn is_given(self) -> bool {
        let variables: &[&str] = match self {
            Self::ControlPlane => &[KUBECONFIG],
            Self::Node => &[KUBECONFIG, NODE],
        };
        variables.iter().all(|name| std::env::var_os(name).is_some())
    }

    /// Whether it can be started on this machine without building anything.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn ready(self) -> Result<(), String> {
        if self == Self::Node && !rustix::process::geteuid().is_root() {
            return Err("a full cluster needs root".into());
        }
        if self == Self::Node {
            for source in [Source::Node, Source::Python] {
                source.ready().map_err(|error| error.to_string())?;
            }
            command("buildah").arg("--version").output().map_err(|_| "buildah is not installed")?;
        }
        let parts = match self {
            Self::ControlPlane => "control-plane",
            Self::Node => "all",
        };
        let output = Command::new(script()).args(["built", parts]).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                Err(format!("{}: run `cargo xtask cluster` (15 minutes, once)", why.trim()))
            }
            Err(error) => Err(format!("{}: {error}", script().display())),
        }
    }

    fn skip(self) -> Option<Skip> {
        if self.is_given() {
            return None;
        }
        Some(Skip { what: self.name(), reason: self.ready().err()? })
    }
}

/// The script that starts and stops clusters.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/cluster/cluster")
}

/// `cargo xtask cluster`: builds what is missing, into a cache outside the repository.
///
/// # Errors
/// When the script fails; its output says why.
pub fn build() -> anyhow::Result<()> {
    run(program(&script()).arg("build"))
}

/// `cargo xtask images`: makes what a full cluster runs, and gives the archives: the project's image under the name that
/// the chart uses, and the real servers. What is up to date is not made anew.
pub fn images() -> anyhow::Result<[PathBuf; 2]> {
    let root = repository();
    let project = target().join("portcullis.tar");
    std::fs::create_dir_all(target()).context("making the target folder")?;
    run(program(&root.join("e2e/image-build")).arg(&project).arg(IMAGE))?;
    let servers = real_servers::image();
    if !servers.exists() {
        let fresh = servers.with_extension("new");
        run(program(&root.join("e2e/real/pack")).arg(real_servers::folder()).arg(&fresh))?;
        std::fs::rename(&fresh, &servers).context("keeping the archive")?;
    }
    Ok([project, servers])
}

fn program(path: &Path) -> Command {
    command(&path.display().to_string())
}

/// The tiers that this machine cannot test as it is.
pub fn skips() -> Vec<Skip> {
    Tier::ALL.into_iter().filter_map(Tier::skip).collect()
}
