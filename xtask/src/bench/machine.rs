//! Where and of what figures are: processors, kernel, versions.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::stage::Programs;
use crate::generate::repository;

/// One sentence of all that figures depend on.
pub fn about(programs: &Programs) -> anyhow::Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's version")?;
    let processors = std::thread::available_parallelism().context("processors")?;
    ensure!(processors.get() >= 2, "two processors are needed: one for the gateway, one for the load generator");
    let gateway = said(&programs.gateway, "--version")?;
    Ok(format!(
        "{processors} processors {}, Linux {}; {}, {}, {} ({}).",
        processor(&fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?),
        kernel.trim(),
        said(Path::new("rustc"), "--version")?,
        said(&programs.nginx, "-v")?.replace("nginx version: ", ""),
        gateway,
        revision()?,
    ))
}

/// The model's name.
fn processor(cpuinfo: &str) -> &str {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("of an unknown model", |(_, name)| name.trim())
}

/// The commit of this work tree, and whether there is more than it.
fn revision() -> anyhow::Result<String> {
    let git = |arguments: &[&str]| -> anyhow::Result<String> {
        let output =
            Command::new("git").arg("-C").arg(repository()).args(arguments).output().context("starting git")?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"])?;
    let more = if changed.is_empty() { "" } else { " with changes" };
    Ok(format!("revision {}{more}", git(&["rev-parse", "--short=10", "HEAD"])?))
}

/// The first line that a program says of itself.
fn said(program: &Path, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(flag).output().with_context(|| program.display().to_string())?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().with_context(|| format!("{} {flag} says nothing", program.display()))?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_the_processor_is_found() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: AMD EPYC\nmodel\t: 17\n"), "AMD EPYC");
        assert_eq!(processor("processor\t: 0\n"), "of an unknown model");
    }
}
