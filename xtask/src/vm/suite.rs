//! Debian suites other than the machine's own, through apt with folders of its own: nothing of the machine's apt changes,
//! nothing is installed, and root is not needed. apt checks the signature of each suite and the digest of each package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::cache;
use crate::process::{capture, find};

/// The keys of all suites, of package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package of a suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// What a suite has lists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Programs,
    Sources,
}

/// A suite with apt's state in `dir`.
pub(crate) struct Suite {
    name: String,
    dir: PathBuf,
}

impl Suite {
    /// The suite `name` of the machine's own mirror, kept in the cache and read anew, where `mib` MiB are free.
    ///
    /// # Errors
    /// If there is no room, no mirror, or it does not answer.
    pub(crate) fn open(name: &str, mib: u64) -> Result<Self> {
        Self::opened(Kind::Programs, name, mib)
    }

    /// The same of the sources that packages are built from.
    ///
    /// # Errors
    /// As [`Suite::open`].
    pub(crate) fn open_sources(name: &str, mib: u64) -> Result<Self> {
        Self::opened(Kind::Sources, name, mib)
    }

    fn opened(kind: Kind, name: &str, mib: u64) -> Result<Self> {
        let cache = cache::dir()?;
        cache::require_space(&cache, mib)?;
        let suite = Self::of(kind, &cache.join("suites"), name, &mirror()?)?;
        suite.update()?;
        Ok(suite)
    }

    /// The suite `name` of `mirror`, with its lists in a folder of its name below `suites`.
    pub(crate) fn new(suites: &Path, name: &str, mirror: &str) -> Result<Self> {
        Self::of(Kind::Programs, suites, name, mirror)
    }

    fn of(kind: Kind, suites: &Path, name: &str, mirror: &str) -> Result<Self> {
        let (dir, list) = match kind {
            Kind::Programs => (suites.join(name), "deb"),
            Kind::Sources => (suites.join(format!("{name}-sources")), "deb-src"),
        };
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).with_context(|| format!("create {}", part.display()))?;
        }
        let signed = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
        let source = format!("{list} {signed}{mirror} {name} main\n");
        fs::write(dir.join("sources.list"), source)
            .and_then(|()| fs::write(dir.join("status"), ""))
            .with_context(|| format!("write what apt shall know of {name} to {} (is the disk full?)", dir.display()))?;
        Ok(Self { name: name.to_owned(), dir })
    }

    /// Reads the suite's package list, and checks who signed it.
    ///
    /// # Errors
    /// In apt's words, if the mirror cannot be reached or its signature is none of Debian's.
    pub(crate) fn update(&self) -> Result<()> {
        let output = self.apt_get().args(["update", "--error-on=any"]).output().context("run apt-get")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("read the package list of Debian's {}: {} (is there a network?)", self.name, complaint(&said));
    }

    /// `package` and all that it depends on, as if nothing were installed.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<Vec<Package>> {
        let mut command = self.apt_get();
        command.args(["install", "--simulate", "--no-install-recommends"]).args(packages);
        let wanted = || format!("look for {} in Debian's {}", packages.join(" "), self.name);
        Ok(parse_closure(&capture(&mut command).with_context(wanted)?))
    }

    /// Downloads `packages` and unpacks them below `root`.
    pub(crate) fn unpack(&self, packages: &[Package], root: &Path) -> Result<()> {
        let archives = self.fresh_archives()?;
        let wanted = packages.iter().map(|package| format!("{}={}", package.name, package.version));
        let mut command = self.apt_get();
        capture(command.arg("download").args(wanted).current_dir(&archives)).with_context(|| {
            format!("download {} packages of Debian's {} to {}", packages.len(), self.name, archives.display())
        })?;
        fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        for entry in fs::read_dir(&archives).with_context(|| format!("list {}", archives.display()))?.flatten() {
            capture(Command::new("dpkg-deb").arg("--extract").arg(entry.path()).arg(root))?;
        }
        let _ = fs::remove_dir_all(&archives);
        Ok(())
    }

    /// Downloads the source of `package` as upstream released it, and unpacks it as `root`.
    ///
    /// # Errors
    /// If it cannot be had or unpacked.
    pub(crate) fn unpack_source(&self, package: &str, root: &Path) -> Result<()> {
        let archives = self.fresh_archives()?;
        let mut command = self.apt_get();
        command.args(["source", "--download-only", "--tar-only", package]).current_dir(&archives);
        capture(&mut command).with_context(|| format!("download the source of {package} in Debian's {}", self.name))?;
        fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        let entries = fs::read_dir(&archives).with_context(|| format!("list {}", archives.display()))?.flatten();
        let mut files = entries.map(|entry| entry.path());
        let archive = files.find(|path| path.to_string_lossy().contains(".orig.tar."));
        let archive = archive.with_context(|| format!("find an archive of {package} in {}", archives.display()))?;
        capture(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(root).arg("--strip-components=1"))?;
        let _ = fs::remove_dir_all(&archives);
        Ok(())
    }

    /// An empty folder for downloads.
    fn fresh_archives(&self) -> Result<PathBuf> {
        let archives = self.dir.join("packages");
        let _ = fs::remove_dir_all(&archives);
        fs::create_dir_all(&archives).with_context(|| format!("create {}", archives.display()))?;
        Ok(archives)
    }

    fn apt_get(&self) -> Command {
        let mut command = Command::new("apt-get");
        let folder = |option: &str, path: PathBuf| format!("-oDir::{option}={}", path.display());
        command.arg("-q").args([
            folder("Etc::sourcelist", self.dir.join("sources.list")),
            folder("State::lists", self.dir.join("lists")),
            folder("State::status", self.dir.join("status")),
            folder("Cache", self.dir.join("cache")),
        ]);
        // No other sources, no preferences of the machine, no translations; apt's own user may not write here.
        command.args(["-oDir::Etc::sourceparts=-", "-oDir::Etc::preferencesparts=-", "-oDir::Etc::preferences=-"]);
        command.args(["-oAcquire::Languages=none", "-oAPT::Sandbox::User=root", "-oAcquire::Retries=1"]);
        command.args(["-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").stdin(Stdio::null());
        command
    }
}

/// The mirror of Debian that this machine's apt reads.
///
/// # Errors
/// If there is no apt, or it reads none.
pub(crate) fn mirror() -> Result<String> {
    if find("apt-get").is_none() || find("dpkg-deb").is_none() {
        bail!("Debian's packages are fetched by apt-get and dpkg-deb, which are not here");
    }
    let fields = "$(CREATED_BY)|$(LABEL)|$(REPO_URI)";
    let targets = capture(Command::new("apt-get").args(["indextargets", "--format", fields]))?;
    choose_mirror(&targets).context("apt reads no mirror of Debian here")
}

/// Of lines `KIND|LABEL|URI`. Before the first `apt-get update` there are no labels.
fn choose_mirror(targets: &str) -> Option<String> {
    let all = targets.lines().filter_map(|line| {
        let mut fields = line.split('|');
        (fields.next()? == "Packages").then_some((fields.next()?, fields.next()?))
    });
    let mut named = all.clone().filter(|(label, _)| *label == "Debian");
    let mut shaped = all.filter(|(_, uri)| uri.trim_end_matches('/').ends_with("/debian"));
    named.next().or_else(|| shaped.next()).map(|(_, uri)| uri.to_owned())
}

/// What apt complains of first: its last line only says that there was something.
fn complaint(said: &str) -> &str {
    let mut lines = said.lines().filter_map(|line| line.strip_prefix("E: ").or_else(|| line.strip_prefix("W: ")));
    lines.next().unwrap_or("apt-get did not say why").trim()
}

/// Of apt's lines `Inst NAME (VERSION SUITE [ARCH])`.
fn parse_closure(simulated: &str) -> Vec<Package> {
    let package = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
        let version = rest.split_once('(')?.1.split(' ').next()?;
        Some(Package { name: name.to_owned(), version: version.to_owned() })
    };
    simulated.lines().filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debians_own_and_not_that_of_security() {
        let lines = "Translations|Debian|mirror/x/\nPackages|Debian-Security|mirror/debian-security/\nPackages|Debian|mirror/debian/\n";
        assert_eq!(choose_mirror(lines).as_deref(), Some("mirror/debian/"));
        let unlabelled = "Packages|$(LABEL)|mirror/debian-security/\nPackages|$(LABEL)|mirror/debian/\n";
        assert_eq!(choose_mirror(unlabelled).as_deref(), Some("mirror/debian/"));
        assert_eq!(choose_mirror("Packages|Other|mirror/other/\n"), None);
    }

    #[test]
    fn a_closure_is_what_apt_would_install() {
        let text = "Reading package lists...\nInst linux-image-6.1.0-50-cloud-amd64 (6.1.187-1 Debian:12.15/oldstable [amd64]) []\n\
                    Inst linux-base (4.9 Debian:12.15/oldstable [all])\nConf linux-base (4.9 Debian:12.15/oldstable [all])\n";
        let package = |name: &str, version: &str| Package { name: name.to_owned(), version: version.to_owned() };
        let wanted = [package("linux-image-6.1.0-50-cloud-amd64", "6.1.187-1"), package("linux-base", "4.9")];
        assert_eq!(parse_closure(text), wanted);
    }

    #[test]
    fn the_first_complaint_says_what_is_wrong() {
        let said = "W: Failed to fetch mirror/InRelease  Could not connect\nE: Some index files failed to download.\n";
        assert_eq!(complaint(said), "Failed to fetch mirror/InRelease  Could not connect");
        assert_eq!(complaint(""), "apt-get did not say why");
    }

    #[test]
    fn sources_have_lists_of_their_own() {
        let dir = std::env::temp_dir().join(format!("netpath-sources-{}", std::process::id()));
        for (kind, folder, first) in [(Kind::Programs, "sid", "deb "), (Kind::Sources, "sid-sources", "deb-src ")] {
            Suite::of(kind, &dir, "sid", "mirror/debian").expect("folders");
            let list = fs::read_to_string(dir.join(folder).join("sources.list")).expect("a list");
            assert!(list.starts_with(first) && list.ends_with("mirror/debian sid main\n"), "{list}");
        }
        fs::remove_dir_all(&dir).expect("remove");
    }

    #[test]
    fn a_mirror_that_does_not_answer_is_an_error_that_says_what_to_do() {
        if find("apt-get").is_none() {
            eprintln!("skipped: there is no apt-get here");
            return;
        }
        let dir = std::env::temp_dir().join(format!("netpath-suite-{}", std::process::id()));
        // The discard port: nobody listens there.
        let suite = Suite::new(&dir, "sid", "http://127.0.0.1:9/debian").expect("folders");
        let error = format!("{:#}", suite.update().expect_err("no such mirror"));
        let _ = fs::remove_dir_all(&dir);
        assert!(
            error.starts_with("read the package list of Debian's sid: ") && error.contains("is there a network?"),
            "{error}"
        );
        assert!(error.lines().count() == 1 && error.len() < 300, "{error}");
    }
}
