//! Debian packages that bring what checks and tests need.

use std::path::Path;

use anyhow::bail;

use crate::process::{command, run};
use crate::steps::Outcome;
use crate::tools;

/// A package, and whether what it brings is there.
pub struct Package {
    name: &'static str,
    present: fn() -> bool,
}

/// Checks scripts.
pub const SHELLCHECK: Package = Package { name: "shellcheck", present: || tools::present("shellcheck") };

/// What the tests, the images and the tools below need. `e2e/cluster/cluster build` installs what only a cluster needs.
pub const FOR_TESTS: [Package; 6] = [
    Package { name: "buildah", present: || tools::present("buildah") },
    Package { name: "ca-certificates", present: || Path::new("/etc/ssl/certs/ca-certificates.crt").exists() },
    Package { name: "chromium", present: || tools::present("chromium") },
    Package { name: "curl", present: || tools::present("curl") },
    Package { name: "openssl", present: || tools::present("openssl") },
    Package {
        name: "python3-venv",
        present: || command("python3").args(["-c", "import ensurepip"]).output().is_ok_and(|it| it.status.success()),
    },
];

/// Installs those that are missing.
///
/// # Errors
/// When some are missing and this is not root on Debian, or when apt-get fails.
pub fn install(packages: &[Package]) -> anyhow::Result<Outcome> {
    let missing: Vec<&str> = packages.iter().filter(|it| !(it.present)()).map(|it| it.name).collect();
    if missing.is_empty() {
        return Ok(Outcome::Done);
    }
    if !rustix::process::geteuid().is_root() || !tools::present("apt-get") {
        bail!("install the Debian packages {} as root", missing.join(" "));
    }
    println!("apt-get install {}", missing.join(" "));
    run(command("apt-get").args(["update", "--quiet", "--quiet"]))?;
    let mut apt = command("apt-get");
    apt.args(["install", "--quiet", "--quiet", "--yes", "--no-install-recommends"]).args(missing);
    run(apt.env("DEBIAN_FRONTEND", "noninteractive"))?;
    Ok(Outcome::Done)
}
