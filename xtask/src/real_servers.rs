//! The folder of real MCP servers and clients: where it is, whether it is complete, and how it is filled.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::process::command;
use crate::skip::Skip;
use crate::tools;

/// Names another folder than the default one.
const FOLDER: &str = "PORTCULLIS_REAL_SERVERS";

/// One part of the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Servers from npm, in `node_modules`.
    Node,
    /// Servers from PyPI, and the clients that come with them, in `venv`.
    Python,
    /// Clients and the conformance suite, with the node that they need, in `clients`.
    Clients,
}

impl Source {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Node, Self::Python, Self::Clients];

    /// The name in skip lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Python => "python",
            Self::Clients => "clients",
        }
    }

    /// The files in `e2e/real` that say what is installed.
    fn inputs(self) -> &'static [&'static str] {
        match self {
            Self::Node => &["package.json", "package-lock.json", ".npmrc"],
            Self::Python => &["requirements.txt"],
            Self::Clients => {
                &["clients/package.json", "clients/package-lock.json", "clients/.npmrc", "clients/requirements.txt"]
            }
        }
    }

    /// Files that are there only when the installation works.
    fn witnesses(self) -> &'static [&'static str] {
        match self {
            Self::Node => &["node_modules/supergateway/package.json"],
            Self::Python => &["venv/bin/python"],
            Self::Clients => &["clients/node_modules/.bin/node", "clients/venv/bin/python"],
        }
    }

    fn stamp(self) -> PathBuf {
        folder().join(format!("{}.stamp", self.name()))
    }

    /// Whether what is installed is what the lock files say; if not, the error says what to do.
    pub fn ready(self) -> Result<()> {
        let stamp = fs::read_to_string(self.stamp()).unwrap_or_default();
        let there = self.witnesses().iter().all(|file| folder().join(file).exists());
        let installed = stamp == hash(&[self]) && there;
        ensure!(installed, "{} is not up to date: run `cargo xtask real-servers`", folder().display());
        Ok(())
    }

    fn install(self) -> Result<()> {
        drop(fs::remove_file(self.stamp()));
        match self {
            Self::Node => install_node(self)?,
            Self::Python => install_python("")?,
            Self::Clients => {
                install_node(self)?;
                install_python("clients")?;
            }
        }
        fs::write(self.stamp(), hash(&[self])).context("writing the stamp")
    }
}

/// The folder that holds `node_modules`, `venv` and `clients`: `PORTCULLIS_REAL_SERVERS`, or else one in `~/.cache` that is named
/// after the contents of the lock files.
pub fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return folder.into();
    }
    tools::cache().join("real-servers").join(hash(&Source::ALL))
}

/// The archive of their image for clusters, named after everything that goes into it.
pub fn image() -> PathBuf {
    let own = ["python_mcp.py", "python_fastmcp.py", "pack", "../cluster/image.py"];
    folder().join(format!("image-{}.tar", hash_of(own)))
}

/// The folder of the lock files and of our own small servers, in the repository.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/real")
}

/// Installs what is not ready and gives back what could not be installed. Fails only if the folder cannot be made.
pub fn set_up() -> Result<Vec<Skip>> {
    fs::create_dir_all(folder()).with_context(|| format!("making {}", folder().display()))?;
    let lock = File::create(folder().join("lock")).context("making the lock file")?;
    lock.lock().context("waiting for another installation")?;
    let install = |source: Source| source.ready().or_else(|_| source.install());
    let skip = |source: Source| {
        let reason = install(source).err()?;
        Some(Skip { what: source.name(), reason: format!("{reason:#}") })
    };
    Ok(Source::ALL.into_iter().filter_map(skip).collect())
}

/// Installs the npm packages of a source, beside the first of its files.
fn install_node(source: Source) -> Result<()> {
    present("node", "Node.js 20 or later")?;
    present("npm", "npm")?;
    let place = folder().join(source.inputs()[0]);
    let place = place.parent().context("a file is in a folder")?;
    fs::create_dir_all(place).with_context(|| format!("making {}", place.display()))?;
    for file in source.inputs() {
        fs::copy(sources().join(file), folder().join(file)).with_context(|| format!("copying {file}"))?;
    }
    // No package in the lock files needs its install script, so none is run.
    run(command("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(place))
}

/// Installs the `requirements.txt` of this part of the sources into a `venv` in the same part of the folder.
fn install_python(part: &str) -> Result<()> {
    present("python3", "Python 3.11 or later")?;
    let venv = folder().join(part).join("venv");
    run(command("python3").args(["-m", "venv", "--clear"]).arg(&venv)).context("python3 has no working venv")?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"]);
    run(pip.arg(sources().join(part).join("requirements.txt")))
}

fn present(program: &str, what: &str) -> Result<()> {
    let found = command(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ensure!(found.is_ok_and(|status| status.success()), "{what} is not installed");
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    eprintln!("{shown}");
    let output = command.output().with_context(|| format!("starting {shown}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it says nothing");
        eprintln!("{errors}");
        bail!("{shown}: {}: {last}", output.status);
    }
    Ok(())
}

/// FNV-1a over the input files: it only has to tell one set of lock files from another, on any machine and compiler.
fn hash(from: &[Source]) -> String {
    hash_of(from.iter().flat_map(|source| source.inputs()).copied())
}

fn hash_of<'a>(files: impl IntoIterator<Item = &'a str>) -> String {
    let bytes = files.into_iter().flat_map(|file| fs::read(sources().join(file)).unwrap_or_default());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}
