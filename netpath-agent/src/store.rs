//! The state on disk: one file of JSON lines, the whole state and what containers have become since (`record.rs`), and a
//! second one for what the next boot wants to know. Touches nothing but the state directory.
//!
//! A change of one container is a line more, so that it costs what it changes. When the lines have become longer than the
//! whole, or it is not a container that has changed, the whole is written anew and replaces the file atomically.
//!
//! A container's interface does not outlive the kernel, so what is said of it need not: it is in the page cache, where
//! the next agent finds it, and nobody waits for the disk. Networks are to be there after a crash of the machine too.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::names::NameFiles;
use crate::record::{self, Record};
use crate::state::State;

/// The whole state, for the next agent.
const FILE: &str = "state.json";
/// The networks alone, synced: for the next boot.
const NETWORKS: &str = "networks.json";
/// As many bytes of records are never too many.
const FEW: u64 = 64 * 1024;

/// What the state directory held.
#[derive(Debug)]
pub enum Loaded {
    Nothing,
    State(State),
    /// Unreadable; it lies at `moved_to` from now on.
    Corrupt {
        moved_to: PathBuf,
        error: anyhow::Error,
        /// The networks, where the machine has been down since: it may have crashed before all was written.
        networks: Option<State>,
    },
}

/// The state directory, locked for one agent as long as this value lives.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// What this agent has synced last.
    synced: RefCell<Option<State>>,
    /// The file with the whole state, where this agent has written it and nothing has failed since.
    open: RefCell<Option<OpenFile>>,
    _lock: Flock<File>,
}

/// A file that goes on with records.
#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Bytes of the whole state.
    whole: u64,
    /// Bytes of all.
    len: u64,
}

impl Store {
    /// Creates `dir` if need be and locks it.
    ///
    /// # Errors
    /// If another agent holds the lock; it is named.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("create state directory {}", dir.display()))?;
        let (synced, open) = (RefCell::default(), RefCell::default());
        Ok(Self { dir: dir.to_owned(), synced, open, _lock: lock(dir)? })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the runner keeps the logs of detached containers.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Reads the state, in the boot called `boot_id`. A file that is not understood is renamed, never deleted or
    /// overwritten.
    ///
    /// # Errors
    /// If the file exists but cannot be read or renamed.
    pub fn load(&self, boot_id: &str) -> Result<Loaded> {
        let path = self.dir.join(FILE);
        let networks = self.networks().filter(|networks| networks.boot_id != boot_id);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(networks.map_or(Loaded::Nothing, Loaded::State));
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        match record::read(&bytes) {
            Ok(state) if state.boot_id == boot_id => Ok(Loaded::State(state)),
            Ok(state) => Ok(Loaded::State(networks.unwrap_or(state))),
            Err(error) => {
                let moved_to = self.free_corrupt_name();
                fs::rename(&path, &moved_to)
                    .with_context(|| format!("set corrupt {} aside as {}", path.display(), moved_to.display()))?;
                Ok(Loaded::Corrupt { moved_to, error, networks })
            }
        }
    }

    /// Replaces the state on disk. After the agent's death there is the old one or the new one; after a crash of the
    /// machine there are the networks of either.
    ///
    /// # Errors
    /// If it cannot be written; the old one is then still there.
    pub fn save(&self, state: &State) -> Result<()> {
        let is_synced = |known: &State| (&known.boot_id, &known.networks) == (&state.boot_id, &state.networks);
        if !self.synced.borrow().as_ref().is_some_and(is_synced) {
            let networks = state.networks_alone();
            self.write(NETWORKS, &networks, true)?;
            *self.synced.borrow_mut() = Some(networks);
        }
        let mut open = self.open.borrow_mut();
        *open = None;
        let file = self.write(FILE, state, false)?;
        let len = file.metadata().with_context(|| format!("look at {}", self.dir.join(FILE).display()))?.len();
        *open = Some(OpenFile { file, whole: len, len });
        Ok(())
    }

    /// As [`Self::save`], where nothing but this container and its endpoints has changed since.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_container(&self, name: &str, state: &State) -> Result<()> {
        let mut open = self.open.borrow_mut();
        let Some(file) = open.as_mut().filter(|open| open.len - open.whole < open.whole.max(FEW)) else {
            drop(open);
            return self.save(state);
        };
        let added = file.add(&Record::of(name, state));
        if added.is_err() {
            // What came to the disk of it counts for nothing, and nothing may follow it.
            *open = None;
        }
        added.with_context(|| format!("write {}", self.dir.join(FILE).display()))
    }

    /// Removes state and lock, and the directory if nothing else lies in it.
    ///
    /// # Errors
    /// If the state cannot be removed.
    pub fn remove(self) -> Result<()> {
        for path in [NETWORKS, FILE].map(|name| self.dir.join(name)) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        fs::remove_file(self.dir.join("lock")).context("remove the lock file")?;
        for files in NameFiles::all(&self.dir) {
            files.remove()?;
        }
        // Logs of containers may lie here; they are the user's.
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }

    /// What was synced last, by whatever agent.
    fn networks(&self) -> Option<State> {
        record::read(&fs::read(self.dir.join(NETWORKS)).ok()?).ok()
    }

    /// The file with the whole state in it.
    fn write(&self, name: &str, state: &State, sync: bool) -> Result<File> {
        let (path, temporary) = (self.dir.join(name), self.dir.join(format!("{name}.tmp")));
        let write = || -> Result<File> {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            let mut out = BufWriter::new(&file);
            serde_json::to_writer(&mut out, state)?;
            out.write_all(b"\n")?;
            out.flush()?;
            drop(out);
            if sync {
                file.sync_all()?;
            }
            fs::rename(&temporary, &path)?;
            if sync {
                File::open(&self.dir)?.sync_all()?;
            }
            Ok(file)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    fn free_corrupt_name(&self) -> PathBuf {
        let mut n = 1;
        loop {
            let path = self.dir.join(format!("{FILE}.corrupt-{n}"));
            if !path.exists() {
                return path;
            }
            n += 1;
        }
    }
}

impl OpenFile {
    fn add(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.len += line.len() as u64;
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<Flock<File>> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)?;
            lock.rewind()?;
            write!(lock, "{}", std::process::id())?;
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            bail!(
                "state {} is in use by the netpath agent with pid {}; stop it, or choose another --state-dir and --socket",
                dir.display(),
                if pid.is_empty() { "unknown" } else { &pid }
            )
        }
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::state::samples::{self, container, network};

    #[test]
    fn state_survives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let state = samples::state();
        {
            let store = Store::open(dir.path()).unwrap();
            assert!(matches!(store.load("boot").unwrap(), Loaded::Nothing));
            store.save(&state).unwrap();
        }
        assert_eq!(loaded(&Store::open(dir.path()).unwrap(), "boot"), state);
    }

    #[test]
    fn a_save_that_broke_off_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(&samples::state()).unwrap();
        for name in [FILE, NETWORKS] {
            fs::write(dir.path().join(format!("{name}.tmp")), "{\"vers").unwrap();
        }
        assert_eq!(loaded(&store, "boot"), samples::state());
    }

    #[test]
    fn networks_survive_a_crash_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut state = samples::state();
        store.save(&state).unwrap();
        state.networks.insert(2, network("second"));
        store.save(&state).unwrap();
        // What is not synced may be old, or not written at all.
        let old = serde_json::to_vec(&samples::state()).unwrap();
        fs::write(dir.path().join(FILE), old).unwrap();
        assert_eq!(loaded(&store, "next").networks, state.networks);
        assert_eq!(loaded(&store, "boot").networks, samples::state().networks, "in the same boot nothing got lost");
        fs::write(dir.path().join(FILE), "").unwrap();
        let Loaded::Corrupt { networks: Some(networks), .. } = store.load("next").unwrap() else {
            panic!("want networks")
        };
        assert_eq!((&networks.networks, networks.containers.len()), (&state.networks, 0));
        assert_eq!(loaded(&store, "next").networks, state.networks);
        assert!(matches!(store.load("boot").unwrap(), Loaded::Nothing));
        fs::write(dir.path().join(FILE), "").unwrap();
        assert!(matches!(store.load("boot").unwrap(), Loaded::Corrupt { networks: None, .. }));
    }

    #[test]
    fn only_a_change_of_networks_waits_for_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let synced = || fs::metadata(dir.path().join(NETWORKS)).unwrap().ino();
        let mut state = samples::state();
        store.save(&state).unwrap();
        let first = File::open(dir.path().join(NETWORKS)).unwrap();
        state.containers.insert("app".to_owned(), container());
        store.save(&state).unwrap();
        assert_eq!(synced(), first.metadata().unwrap().ino());
        assert_eq!(loaded(&store, "boot"), state);
        state.networks.insert(2, network("second"));
        store.save(&state).unwrap();
        assert_ne!(synced(), first.metadata().unwrap().ino());
    }

    #[test]
    fn a_changed_container_is_added_and_nothing_else_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut state = samples::state();
        store.save_container("web", &state).unwrap();
        let whole = fs::read(dir.path().join(FILE)).unwrap();
        state.containers.insert("app".to_owned(), container());
        store.save_container("app", &state).unwrap();
        state.endpoints.clear();
        store.save_container("web", &state).unwrap();
        let all = fs::read(dir.path().join(FILE)).unwrap();
        assert!(all.starts_with(&whole) && all.iter().filter(|byte| **byte == b'\n').count() == 3);
        assert_eq!(loaded(&store, "boot"), state);
    }

    #[test]
    fn the_file_stays_within_twice_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut state = samples::state();
        let mut longest = 0;
        for created in 0..1000 {
            state.containers.get_mut("web").unwrap().created = created;
            store.save_container("web", &state).unwrap();
            longest = longest.max(fs::metadata(dir.path().join(FILE)).unwrap().len());
        }
        let whole = serde_json::to_vec(&state).unwrap().len() as u64;
        assert!(longest > FEW && longest < FEW + 3 * whole, "{longest} bytes, the whole state is {whole}");
        assert_eq!(loaded(&store, "boot"), state);
    }

    #[test]
    fn after_a_record_that_failed_the_whole_state_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut state = samples::state();
        store.save(&state).unwrap();
        // As if the disk were full.
        store.open.borrow_mut().as_mut().unwrap().file = File::open("/dev/null").unwrap();
        state.containers.insert("app".to_owned(), container());
        let error = format!("{:#}", store.save_container("app", &state).unwrap_err());
        assert!(error.starts_with("write ") && error.contains(FILE), "{error}");
        assert_eq!(loaded(&store, "boot"), samples::state());
        state.endpoints.clear();
        store.save_container("web", &state).unwrap();
        assert_eq!(loaded(&store, "boot"), state, "also what had failed");
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_never_overwrites_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for n in 1..=2 {
            fs::write(dir.path().join(FILE), format!("garbage {n}")).unwrap();
            let Loaded::Corrupt { moved_to, .. } = store.load("boot").unwrap() else { panic!("want corrupt") };
            assert_eq!(moved_to, dir.path().join(format!("state.json.corrupt-{n}")));
            assert_eq!(fs::read_to_string(moved_to).unwrap(), format!("garbage {n}"));
        }
        assert!(matches!(store.load("boot").unwrap(), Loaded::Nothing));
    }

    #[test]
    fn state_of_another_version_is_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut state = serde_json::to_value(samples::state()).unwrap();
        state["version"] = 99.into();
        fs::write(dir.path().join(FILE), state.to_string()).unwrap();
        let Loaded::Corrupt { error, .. } = store.load("boot").unwrap() else { panic!("want corrupt") };
        assert!(error.to_string().contains("99"), "{error}");
    }

    #[test]
    fn a_second_agent_is_refused_and_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Store::open(dir.path()).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
    }

    #[test]
    fn nothing_is_left_of_a_store_that_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let store = Store::open(&path).unwrap();
        store.save(&samples::state()).unwrap();
        store.remove().unwrap();
        assert!(!path.exists());
    }

    fn loaded(store: &Store, boot_id: &str) -> State {
        let Loaded::State(state) = store.load(boot_id).unwrap() else { panic!("want state") };
        state
    }
}
