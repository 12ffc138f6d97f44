//! `cargo xtask vm [KERNEL...] -- TASK`: boots a test machine for each kernel and does the task in it. The machine's files are
//! copies of this one's, so nothing that happens inside touches this host. Needs no root.

mod accelerator;
pub(crate) mod cache;
mod cpio;
mod image;
mod job;
mod kernel;
mod machine;
mod record;
pub(crate) mod suite;
mod tools;

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, value_parser};

use crate::process::{built, cargo, run as run_command};
use image::Job;
use job::Task;
use kernel::Kernel;
use machine::{Boot, End};
use record::Record;
use tools::Tools;

/// The kernel of tasks that want one, where none is named.
const USUAL: &str = "6.12";
/// What a guest's image takes on the disk, with room.
const IMAGE_MIB: u64 = 500;
/// Exit status where programs are refused, or cost more than in the record.
const WORSE: u8 = 1;
/// Exit status of whoever is ended by Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// What `cargo xtask vm` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// 5.10, 6.1, 6.12 or sid: Debian's cloud kernels of that series. None: all of them for `test`, 6.12 for the rest
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// A bzImage of one's own, as the only kernel
    #[arg(long, value_name = "PATH", conflicts_with = "kernels")]
    kernel: Option<PathBuf>,
    /// The modules of that kernel, uncompressed: a folder as /lib/modules/RELEASE is
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Seconds after which a guest is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = value_parser!(u64).range(1..))]
    limit: u64,
    /// Processors of the guest
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory of the guest in MiB
    #[arg(long, value_name = "MIB", default_value_t = 3072, value_parser = value_parser!(u32).range(1024..))]
    memory: u32,
    /// Ask Debian for newer kernels than those in the cache
    #[arg(long)]
    update: bool,
    /// Of `programs`, or of `test` without options: write docs/kernels.json and the tables made of it
    #[arg(long)]
    record: bool,
    /// run: a shell and the agent. programs: whether the kernel takes them. demo, bench [OPTIONS], test [FILTER and options of
    /// nextest]: as on this host. exec COMMAND
    #[arg(last = true, required = true, value_name = "TASK")]
    task: Vec<OsString>,
}

/// A place for what one run makes; gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = built("vm", &std::process::id().to_string())?;
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    // What can be refused at once is refused before anything is fetched or built.
    let (task, args) = Task::parse(&options.task)?;
    if options.record && (options.kernel.is_some() || !task.is_of_record(&args)) {
        bail!("--record is for Debian's kernels and what they say to `programs`, or to `test` without a filter");
    }
    options.kernels.iter().try_for_each(|name| kernel::check(name))?;
    require_architecture()?;
    if task.is_interactive() && !std::io::stdin().is_terminal() {
        bail!("`run` is a shell and wants a terminal; without one: -- exec COMMAND");
    }
    let own = options.kernel.as_deref().map(|image| kernel::own(image, options.modules.as_deref())).transpose()?;
    let tools = tools::ensure()?;
    let kernels = match own {
        Some(own) => vec![own],
        None => named(options, task)
            .into_iter()
            .map(|name| kernel::ensure(name, options.update, &tools))
            .collect::<Result<_>>()?,
    };
    run_command(cargo().args(["build", "-p", "netpath-vm-init"]))?;
    let job = task.prepare(&args)?;
    let scratch = Scratch::new()?;
    cache::require_space(&scratch.0, IMAGE_MIB)?;
    let records = record::all()?;
    let (mut results, mut found) = (Vec::new(), Vec::new());
    for kernel in &kernels {
        let (mut status, record) = boot(options, task, &job, kernel, &tools, &scratch.0)?;
        if let Some(record) = record {
            let is_well = options.record || is_as_good(&record, &records);
            status = if status == 0 && !is_well { WORSE } else { status };
            found.push(record);
        }
        results.push((kernel, status));
        if status == INTERRUPTED {
            break;
        }
    }
    for (kernel, status) in results.iter().filter(|_| results.len() > 1) {
        eprintln!("vm: {} ({}): {}", kernel.name, kernel.version, if *status == 0 { "well" } else { "failed" });
    }
    if options.record {
        record::keep(found)?;
    }
    let first = results.iter().map(|(_, status)| *status).find(|status| *status != 0);
    Ok(ExitCode::from(first.unwrap_or(0)))
}

/// Puts all that guests are made of into the cache, where it is not there yet.
///
/// # Errors
/// If something is not to be had: there is no network, no mirror, no space, or this is no x86-64.
pub(crate) fn fetch() -> Result<()> {
    require_architecture()?;
    let tools = tools::ensure()?;
    kernel::SERIES.iter().try_for_each(|(name, _)| kernel::ensure(name, false, &tools).map(drop))
}

fn require_architecture() -> Result<()> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(()),
        other => bail!("test machines are x86-64 ones, and this is {other}"),
    }
}

fn named(options: &Options, task: Task) -> Vec<&str> {
    match &options.kernels[..] {
        [] if task.is_for_one() => vec![USUAL],
        [] => kernel::SERIES.map(|(name, _)| name).to_vec(),
        names => names.iter().map(String::as_str).collect(),
    }
}

/// Says what a kernel says to the programs, and what of that is worse than in the records.
fn is_as_good(record: &Record, records: &[Record]) -> bool {
    let worse = record.worse_than(record::find(records, record.kernel()));
    eprintln!("vm: kernel {}: {}", record.kernel(), record.told());
    worse.iter().for_each(|line| eprintln!("vm: kernel {}: worse: {line}", record.kernel()));
    worse.is_empty()
}

/// Does `job` on one kernel and keeps its report. The exit status, and what the kernel says to the programs if that was asked.
fn boot(
    options: &Options,
    task: Task,
    job: &Job,
    kernel: &Kernel,
    tools: &Tools,
    scratch: &Path,
) -> Result<(u8, Option<Record>)> {
    let init = built("debug", "netpath-vm-init")?;
    let accelerator = accelerator::choose(&cache::dir()?, kernel, &init, tools, scratch)?;
    let image = scratch.join("image.cpio");
    image::write(&image, &init, job, kernel, tools)?;
    eprintln!("vm: kernel {}: {}, {}, {} CPUs", kernel.name, kernel.version, accelerator.shown(), options.cpus);
    let started = Instant::now();
    let boot = Boot {
        kernel,
        image: &image,
        accelerator,
        cpus: options.cpus,
        memory_mib: options.memory,
        limit: Duration::from_secs(options.limit),
        terminal: task.is_interactive(),
        shown: true,
        forwarded: if task.is_interactive() { &[8080] } else { &[] },
    };
    let outcome = machine::run(&boot, tools, scratch)?;
    let record = Record::of(kernel, &outcome.files)?;
    for (name, bytes) in outcome.files {
        let path = built("vm", "reports")?.join(format!("{}-{name}", kernel.name));
        fs::create_dir_all(path.parent().context("a report without a folder")?)?;
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        eprintln!("vm: kernel {}: report in {}", kernel.name, path.display());
    }
    let seconds = started.elapsed().as_secs_f64();
    let status = match outcome.end {
        End::Status(status) => {
            eprintln!("vm: kernel {}: exit status {status} after {seconds:.1} s", kernel.name);
            status
        }
        End::Interrupted => {
            eprintln!("vm: kernel {}: interrupted", kernel.name);
            INTERRUPTED
        }
        End::Broken(how, lines) => {
            let last = if lines.is_empty() { "it said nothing" } else { "its last lines are above" };
            lines.iter().for_each(|line| eprintln!("    {line}"));
            eprintln!("vm: kernel {}: the guest {how}; {last}", kernel.name);
            2
        }
    };
    Ok((status, record))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Cli::try_parse_from(std::iter::once("vm").chain(line.split_whitespace())).expect("options").options
    }

    #[test]
    fn tests_run_on_every_kernel_unless_some_are_named() {
        assert_eq!(named(&options("-- test"), Task::Test), ["5.10", "6.1", "6.12", "sid"]);
        assert_eq!(named(&options("-- demo"), Task::Demo), [USUAL]);
        assert_eq!(named(&options("6.1 sid -- test published_port"), Task::Test), ["6.1", "sid"]);
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_fetched() {
        for (line, wanted) in [
            ("4.19 -- test", "no kernel is called `4.19`"),
            ("6.1 -- fly", "a guest cannot do `fly`"),
            ("--kernel /no/bzImage -- demo", "there is no kernel /no/bzImage"),
        ] {
            let error = format!("{:#}", run(&options(line)).expect_err(line));
            assert!(error.starts_with(wanted) && error.lines().count() == 1, "{error}");
        }
    }
}
