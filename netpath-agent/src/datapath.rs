//! The data plane in the kernel: programs, links and maps, all pinned, so that it outlives the agent.
//! Only this module names aya.
//!
//! Layout of the pin directory: `maps/NAME`, and `links/PROGRAM-IFINDEX` for each attached program; those on the
//! root cgroup have no interface. Where the kernel has no links, `filters/PROGRAM-IFINDEX`: see `filters.rs`.

mod attempts;
mod counters;
mod events;
mod family_tables;
mod features;
mod filters;
mod flows;
mod hooks;
mod ipv6;
mod jumps;
mod links;
mod locked_memory;
mod network_bits;
mod pins;
mod port_bits;
pub mod probes;
mod sizes;
mod tables;
mod test_run;
pub mod trial;
mod xdp;
mod xdp_links;

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use netpath_common::Config;
#[cfg(feature = "trace")]
use tokio::io::unix::AsyncFd;

use attempts::verify;
pub use events::Events;
pub use features::Features;
use filters::Filters;
pub use flows::{FlowEntry, now_s};
pub use links::Attachment;
use pins::{Pinned, pinned, undo};
pub use pins::{Remains, teardown};
pub use sizes::Sizes;
pub use tables::FamilyMaps;
use tables::Tables;
pub use test_run::TestRun;
pub use xdp_links::{XdpRefusal, program_name};

use crate::memory;
use crate::xdp::Mode;

/// The eBPF object.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netpath-programs"));

/// Maps that go on when programs are replaced.
const PINNED: &[&str] = &[
    "CONFIG",
    "NETWORKS",
    "ENDPOINTS",
    "EXTERNALS",
    "LINKS",
    "TRUSTED",
    "GATEWAYS",
    "PORT_BITS",
    "SOURCE_BITS",
    "ADDRESSES_V4",
    "PREFIXES_V4",
    "NETWORK_BITS_V4",
    "PUBLISHED_PORTS_V4",
    "PUBLISHED_SOURCES_V4",
    "ALLOWED_V4",
    "FLOWS_V4",
    "MAPPINGS_V4",
    "REPLIES_V4",
    "SHARES_V4",
    "FLOW_RING_V4",
    "FRAGMENTS_V4",
    "RESERVED_V4",
    "HOST_PEERS_V4",
    "ADDRESSES_V6",
    "PREFIXES_V6",
    "NETWORK_BITS_V6",
    "PUBLISHED_PORTS_V6",
    "PUBLISHED_SOURCES_V6",
    "ALLOWED_V6",
    "FLOWS_V6",
    "MAPPINGS_V6",
    "REPLIES_V6",
    "SHARES_V6",
    "FLOW_RING_V6",
    "FRAGMENTS_V6",
    "RESERVED_V6",
    "HOST_PEERS_V6",
    "REACHES",
    "RING_HAND",
    "HELD",
    "HELD_BUCKETS",
    "LOCKS",
    "COUNTERS",
    "DROPS",
    "EVENTS",
];

/// Names of the programs, in the order in which they are listed.
pub const PROGRAMS: [&str; 15] = [
    "from_external",
    "from_external6",
    "to_external",
    "to_external6",
    "from_container",
    "from_container6",
    "inside_from_container",
    "inside_from_container6",
    "begin_flow",
    "begin_flow6",
    "answer_refusal",
    "answer_refusal6",
    "release_fragments",
    "release_fragments6",
    "to_bridge",
];

/// Whether the maps were there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    Fresh,
    Adopted,
}

/// A loaded program, as the kernel counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    pub name: String,
    /// Instructions that the verifier walked through.
    pub instructions: u32,
    /// Only counted while `kernel.bpf_stats_enabled` is 1.
    pub run_count: u64,
    pub run_time_ns: u64,
    /// Whether the kernel took the program's type information (BTF).
    pub has_btf: bool,
}

/// Memory of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    pub name: String,
    pub max_entries: u32,
    pub bytes: u64,
}

/// Programs, links and maps.
pub struct Datapath {
    ebpf: Ebpf,
    sizes: Sizes,
    tables: Tables,
    links_dir: PathBuf,
    /// How programs of tc hang instead of by links.
    filters: Option<Filters>,
    jumps: ProgramArray<MapData>,
    jumps_pin: PathBuf,
    /// Whether IPv6's programs are in the kernel.
    has_ipv6: bool,
    /// Why the programs for the root cgroup are not in the kernel.
    hooks_error: Option<anyhow::Error>,
    xdp: xdp::Programs,
    /// Why a program for XDP is not in the kernel.
    xdp_errors: Vec<(Mode, String)>,
}

impl Datapath {
    /// Loads the programs, but for IPv6's, and gives them the maps pinned in `pin_dir`, or makes new ones there, of
    /// these sizes.
    ///
    /// # Errors
    ///
    /// If the pinned maps have another layout, or the kernel refuses a map or a program. Nothing is pinned then
    /// that was not before.
    pub fn load(pin_dir: &Path, sizes: &Sizes, config: Config) -> Result<(Self, Adoption)> {
        let adoption = match pinned(pin_dir)? {
            Pinned::Whole => Adoption::Adopted,
            Pinned::Nothing => Adoption::Fresh,
            Pinned::Unfinished => {
                tracing::warn!("the set-up of {} broke off half way; it is made anew", pin_dir.display());
                undo(pin_dir);
                Adoption::Fresh
            }
        };
        let loaded = Self::load_as(adoption, pin_dir, sizes, config);
        if loaded.is_err() && adoption == Adoption::Fresh {
            undo(pin_dir);
        }
        Ok((loaded?, adoption))
    }

    fn load_as(adoption: Adoption, pin_dir: &Path, sizes: &Sizes, config: Config) -> Result<Self> {
        let (maps_dir, links_dir) = (pin_dir.join("maps"), pin_dir.join("links"));
        for dir in [&maps_dir, &links_dir] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        locked_memory::lift_limit();
        let mut loader = EbpfLoader::new();
        for name in PINNED {
            loader.map_pin_path(name, maps_dir.join(name));
        }
        let jumps_pin = jumps::next_pin(&maps_dir)?;
        loader.map_pin_path("JUMPS", jumps_pin.clone());
        let sizes = if adoption == Adoption::Adopted { Sizes::of_pinned(&maps_dir)? } else { *sizes };
        sizes::set(&mut loader, &sizes);
        features::set(&mut loader, Features::Found);
        #[cfg(feature = "faults")]
        loader.map_pin_path(".data.fault", maps_dir.join("FAULT"));
        let mut ebpf = loader.load(OBJECT).context("create the maps (needs root and a kernel with BPF)")?;
        for name in PROGRAMS.iter().filter(|name| !ipv6::is_its(name)) {
            load_program(program(&mut ebpf, name)?, name)?;
        }
        let hooks_error = hooks::load(&mut ebpf).err();
        // SAFETY: a constant.
        unsafe { memory::release_pages(OBJECT) };
        let mut jumps = tables::take(&mut ebpf, "JUMPS")?;
        jumps::fill(&mut jumps, &mut ebpf, |name| !ipv6::is_its(name))?;
        let tables =
            if adoption == Adoption::Fresh { Tables::create(&mut ebpf, config)? } else { Tables::adopt(&mut ebpf)? };
        Ok(Self {
            ebpf,
            sizes,
            tables,
            links_dir,
            filters: Filters::pinned(pin_dir),
            jumps,
            jumps_pin,
            has_ipv6: false,
            hooks_error,
            xdp: xdp::Programs::of(Features::Found),
            xdp_errors: Vec::new(),
        })
    }

    /// Whether programs of tc hang by filters of clsact qdiscs, which anybody may remove, and not by links.
    pub fn has_filters(&self) -> bool {
        self.filters.is_some()
    }

    /// Makes them hang by filters. Call before anything is attached.
    ///
    /// # Errors
    ///
    /// If that cannot be noted in the pin directory.
    pub fn use_filters(&mut self) -> Result<()> {
        self.filters = Some(Filters::create(self.links_dir.parent().unwrap_or(&self.links_dir))?);
        Ok(())
    }

    /// The sizes of the maps, which may be an earlier agent's.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Forgets what programs of earlier agents needed. Call when this agent's are attached wherever those were.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn retire_earlier(&self) -> Result<()> {
        jumps::retire(&self.links_dir.with_file_name("maps"), &self.jumps_pin)
    }

    /// Programs with their size and, where the kernel counts it, their cost.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn programs(&self) -> Result<Vec<ProgramInfo>> {
        let hooks: &[&str] = if self.hooks_error.is_none() { &hooks::HOOKS } else { &[] };
        let xdp: Vec<_> = self.xdp.all().filter(|name| self.is_loaded(name)).collect();
        PROGRAMS
            .iter()
            .filter(|name| self.has_ipv6 || !ipv6::is_its(name))
            .chain(&xdp)
            .chain(hooks)
            .map(|name| {
                let Some(program) = self.ebpf.program(name) else { bail!("no program `{name}` in the eBPF object") };
                let info = program.info().with_context(|| format!("query `{name}`"))?;
                Ok(ProgramInfo {
                    name: (*name).to_owned(),
                    instructions: info.verified_instruction_count().unwrap_or(0),
                    run_count: info.run_count(),
                    run_time_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                    has_btf: info.btf_id().is_some(),
                })
            })
            .collect()
    }

    /// What each pinned map takes.
    ///
    /// # Errors
    ///
    /// If a pin cannot be opened.
    pub fn maps(&self) -> Result<Vec<MapInfo>> {
        let maps_dir = self.links_dir.with_file_name("maps");
        PINNED
            .iter()
            .map(|name| {
                let map = MapData::from_pin(maps_dir.join(name)).with_context(|| format!("open pin {name}"))?;
                let max_entries = map.info().with_context(|| format!("query {name}"))?.max_entries();
                Ok(MapInfo { name: (*name).to_owned(), max_entries, bytes: memory(&map)? })
            })
            .collect()
    }

    /// Shows what the programs log, until the runtime ends.
    ///
    /// # Errors
    ///
    /// If the programs have no log: they were built without the feature `trace`.
    #[cfg(feature = "trace")]
    pub fn show_trace(&mut self) -> Result<()> {
        let logger = aya_log::EbpfLogger::init(&mut self.ebpf).context("open the programs' log")?;
        // SAFETY: the logger owns its descriptor, keeps it for life and never replaces it.
        let mut logger = unsafe { AsyncFd::register(logger) }.context("watch the programs' log")?;
        tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        });
        Ok(())
    }

    /// The stream of events from this moment on, for one reader. It yields only while `config_flag::MONITOR` is set,
    /// and takes half a MiB of memory.
    ///
    /// # Errors
    ///
    /// If the ring buffer cannot be opened.
    pub fn events(&self) -> Result<Events> {
        // Programs that are loaded later want the descriptor of the map that is in `ebpf`.
        let pin = self.links_dir.with_file_name("maps").join("EVENTS");
        let map = MapData::from_pin(&pin).with_context(|| format!("open pin {}", pin.display()))?;
        Events::new(Map::RingBuf(map))
    }
}

/// Loads a program, and keeps no more of it than its descriptor, if the kernel gives a second one (`CAP_SYS_ADMIN`).
fn load_program(program: &mut SchedClassifier, name: &'static str) -> Result<()> {
    verify(|| program.load()).with_context(|| format!("load `{name}` into the kernel"))?;
    match program.info().and_then(|info| SchedClassifier::from_program_info(info, Cow::Borrowed(name))) {
        Ok(loaded) => *program = loaded,
        Err(error) => tracing::debug!("the instructions of `{name}` stay in memory: {error}"),
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program `{name}` in the eBPF object"))?;
    program.try_into().with_context(|| format!("`{name}` is no tc program"))
}

/// Bytes that the kernel holds for a map.
fn memory(map: &MapData) -> Result<u64> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.and_then(|value| value.trim().parse().ok()).unwrap_or(0))
}
