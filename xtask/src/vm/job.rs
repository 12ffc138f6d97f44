//! What a guest can be told to do, what is built for it, and the command that does it there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::image::Job;
use super::record::DOCTOR;
use crate::process::{build_release, built, capture, cargo, find, root_dir, run};
use crate::setup::{self, Report, Scope};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Run,
    Demo,
    Test,
    Bench,
    /// Whether the kernel takes every program.
    Programs,
    Exec,
}

/// The agent, where a guest's `PATH` has it.
const AGENT: &str = "/usr/local/bin/netpath";
/// What tests are made of.
const PACKAGES: [&str; 4] = ["-p", "netpath-agent", "-p", "netpath-tests"];
/// What `run` does before the shell: an interface to the outside as qemu's user network wants it, and the agent on it.
const SHELL: &str = "mount -t tmpfs tmpfs /tmp; modprobe virtio_net; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; \
    ip route add default via 10.0.2.2; netpath agent >/var/log/netpath.log 2>&1 & \
    for i in $(seq 600); do netpath ps >/dev/null 2>&1 && break; kill -0 $! 2>/dev/null || break; sleep 0.1; done; \
    uname -r; kill -0 $! && echo 'the agent runs (its log: /var/log/netpath.log); 127.0.0.1:8080 of your host is port 8080 here' \
    || cat /var/log/netpath.log; \
    echo \"for example: netpath run -d -p 8080:80 -- nginx -g 'daemon off;'   (exit or Ctrl-D ends this machine)\"; exec bash";
impl Task {
    /// The task and its arguments.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn parse(words: &[OsString]) -> Result<(Self, Vec<String>)> {
        let text = |word: &OsString| {
            word.to_str().map(str::to_owned).with_context(|| format!("{} is no text", word.display()))
        };
        let words = words.iter().map(text).collect::<Result<Vec<_>>>()?;
        let Some((name, args)) = words.split_first() else {
            bail!("what to do? after `--`: run, demo, test, bench, programs or exec")
        };
        let task = match name.as_str() {
            "run" => Self::Run,
            "demo" => Self::Demo,
            "test" => Self::Test,
            "bench" => Self::Bench,
            "programs" if !args.is_empty() => bail!("`programs` takes no options"),
            "programs" => Self::Programs,
            "exec" if args.is_empty() => bail!("exec what? after `-- exec`: a command and its arguments"),
            "exec" => Self::Exec,
            other => bail!("a guest cannot do `{other}`: there are run, demo, test, bench, programs, exec"),
        };
        Ok((task, args.to_vec()))
    }

    /// Whether one kernel is enough where none is named.
    pub(super) fn is_for_one(self) -> bool {
        !matches!(self, Self::Test | Self::Programs)
    }

    /// Whether docs/kernels.json has what comes of it.
    pub(super) fn is_of_record(self, args: &[String]) -> bool {
        self == Self::Programs || self == Self::Test && args.is_empty()
    }

    pub(super) fn is_interactive(self) -> bool {
        self == Self::Run
    }

    /// Builds what the guest needs.
    pub(super) fn prepare(self, args: &[String]) -> Result<Job> {
        setup::ensure(if self == Self::Test { Scope::Tests } else { Scope::Agent }, Report::Quiet)?;
        if self == Self::Test {
            return tests(args);
        }
        // What tests use too, where nothing is measured.
        let is_debug = matches!(self, Self::Exec | Self::Programs);
        let profile = if is_debug { "debug" } else { "release" };
        if is_debug {
            run(cargo().args(["build", "--bins"]).args(PACKAGES))?;
        } else {
            build_release()?;
        }
        let mut job = Job { programs: vec![(AGENT.into(), built(profile, "netpath")?)], ..Job::default() };
        let release = |name: &str| built("release", name);
        let words = |program: &str| std::iter::once(program.to_owned()).chain(args.iter().cloned()).collect();
        match self {
            Self::Run => {
                job.terminal = true;
                job.argv = ["sh", "-c", SHELL].map(str::to_owned).to_vec();
            }
            Self::Demo => {
                job.programs.push(("/usr/local/bin/netpath-demo".into(), release("netpath-demo")?));
                job.argv = words("netpath-demo");
            }
            Self::Bench => {
                job.programs.push(("/usr/local/bin/netpath-bench".into(), release("netpath-bench")?));
                add_records(&mut job, &root_dir().join("bench"))?;
                job.argv = words("netpath-bench");
                job.env.push(("NETPATH_ROOT".to_owned(), root_dir().display().to_string()));
            }
            Self::Programs => job.argv = after_doctor(&["true"]),
            Self::Exec | Self::Test => job.argv = args.to_vec(),
        }
        job.env.push(("NETPATH_BIN".to_owned(), AGENT.to_owned()));
        Ok(job)
    }
}

/// The tests that need a kernel: network namespaces, and programs on packets. nextest runs them in the guest, from what cargo
/// has built here, at the paths they have here.
fn tests(args: &[String]) -> Result<Job> {
    run(cargo().args(["build", "--bins", "--tests"]).args(PACKAGES))?;
    let list = ["nextest", "list", "--list-type", "binaries-only", "--message-format", "json"];
    let binaries = capture(cargo().args(list).args(PACKAGES).args(["--test", "netpath", "--test", "prog_run"]))?;
    let metadata = capture(cargo().args(["metadata", "--format-version", "1"]))?;
    let nextest = find("cargo-nextest").context("cargo-nextest is not on PATH")?;
    let agent = built("debug", "netpath")?;
    let mut job = Job {
        env: vec![("NETPATH_BIN".to_owned(), agent.display().to_string())],
        programs: vec![("/usr/local/bin/cargo-nextest".into(), nextest), (agent.clone(), agent.clone())],
        ..Job::default()
    };
    let parsed: Value = serde_json::from_str(&binaries).context("understand nextest's list of binaries")?;
    for binary in parsed["rust-binaries"].as_object().into_iter().flatten().map(|(_, binary)| binary) {
        let path = PathBuf::from(binary["binary-path"].as_str().context("a test without a path")?);
        job.programs.push((path.clone(), path));
        // Tests run in their package's folder.
        job.folders.push(package_folder(&metadata, binary)?);
    }
    let proxy = built("tools", "docker-proxy")?;
    if proxy.is_file() {
        job.programs.push((proxy.clone(), proxy));
    }
    // nextest looks for both, though it builds nothing.
    for path in [".config/nextest.toml", "Cargo.toml"].map(|path| root_dir().join(path)) {
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        job.files.push((path, text));
    }
    for (path, text) in [("binaries.json", binaries), ("cargo.json", metadata)] {
        job.files.push((Path::new("/vm").join(path), text.into_bytes()));
    }
    let words = "cargo-nextest nextest run --cargo-metadata /vm/cargo.json --binaries-metadata /vm/binaries.json \
                 --profile vm --color never --show-progress none";
    let words: Vec<&str> = words.split_whitespace().collect();
    job.argv = match args {
        [] => after_doctor(&words),
        // Whoever names tests means those, whether they are among the usual ones or not.
        _ => words
            .into_iter()
            .chain(["--ignore-default-filter"])
            .map(str::to_owned)
            .chain(args.iter().cloned())
            .collect(),
    };
    Ok(job)
}

/// The command that does `words` after the doctor has left its report. Its status says nothing: a guest has no external
/// interface, and what a kernel lacks is compared with the record.
fn after_doctor(words: &[&str]) -> Vec<String> {
    let script = format!(
        "mkdir -p /vm/report && {{ \"$NETPATH_BIN\" doctor --programs --json >/vm/report/{DOCTOR}; exec \"$@\"; }}"
    );
    ["sh", "-c", &script, "sh"].iter().chain(words).map(|word| (*word).to_owned()).collect()
}

/// The folder of the package that a test binary is of.
fn package_folder(metadata: &str, binary: &Value) -> Result<PathBuf> {
    let metadata: Value = serde_json::from_str(metadata).context("understand cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    let package = packages.iter().find(|package| package["id"] == binary["package-id"]);
    let manifest = package.and_then(|package| package["manifest_path"].as_str()).context("a test of no package")?;
    Ok(Path::new(manifest).parent().context("a manifest without a folder")?.to_owned())
}

/// The records of earlier runs, which the bench compares with.
fn add_records(job: &mut Job, dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            add_records(job, &path)?;
        } else {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            job.files.push((path, bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Task, Vec<String>)> {
        Task::parse(&text.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_follows_the_task_is_its_own() {
        assert_eq!(parse("test published_port -j 1").expect("a task").1, ["published_port", "-j", "1"]);
        assert_eq!(
            parse("exec netpath doctor").expect("a task"),
            (Task::Exec, vec!["netpath".into(), "doctor".into()])
        );
    }

    #[test]
    fn what_is_no_task_is_refused_with_those_there_are() {
        for (text, wanted) in
            [("", "what to do?"), ("fly", "a guest cannot do `fly`: there are run, demo"), ("exec", "exec what?")]
        {
            let error = format!("{:#}", parse(text).expect_err(text));
            assert!(error.starts_with(wanted), "{error}");
        }
    }
}
