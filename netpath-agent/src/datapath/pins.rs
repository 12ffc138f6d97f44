//! The pin directory as an earlier agent left it, and its removal.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData};
use netpath_common::{Config, LAYOUT};

use super::filters::Filters;

/// What is left when everything is taken down.
#[derive(Debug, Default)]
pub struct Remains {
    /// What went wrong. Everything else was done all the same.
    pub errors: Vec<anyhow::Error>,
    /// Interfaces that have a clsact qdisc from here.
    pub qdiscs: Vec<u32>,
}

/// Removes everything pinned under `pin_dir`: detaches the programs and frees the maps.
pub fn teardown(pin_dir: &Path) -> Remains {
    let mut errors = Vec::new();
    let qdiscs = Filters::pinned(pin_dir).map(|filters| filters.tear_down(&mut errors)).unwrap_or_default();
    // Links first: no packet meets a program whose maps are half gone.
    for dir in [pin_dir.join("links"), pin_dir.join("maps")] {
        remove_pins(&dir, &mut errors);
    }
    remove_dir(pin_dir, &mut errors);
    if let Some(parent) = pin_dir.parent().filter(|parent| parent.ends_with("netpath")) {
        // Stays while other agents have their pins in it.
        let _ = fs::remove_dir(parent);
    }
    Remains { errors, qdiscs }
}

fn remove_pins(dir: &Path, errors: &mut Vec<anyhow::Error>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if let Err(error) = fs::remove_file(entry.path()) {
            errors.push(anyhow::Error::new(error).context(format!("unpin {}", entry.path().display())));
        }
    }
    remove_dir(dir, errors);
}

fn remove_dir(dir: &Path, errors: &mut Vec<anyhow::Error>) {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            errors.push(anyhow::Error::new(error).context(format!("remove {}", dir.display())));
        }
        _ => {}
    }
}

/// What lies in a pin directory.
pub(super) enum Pinned {
    Nothing,
    /// Maps of an agent that ended before it had written the settings, which it does last.
    Unfinished,
    Whole,
}

/// # Errors
///
/// If there are maps of another layout than this agent's.
pub(super) fn pinned(pin_dir: &Path) -> Result<Pinned> {
    let maps_dir = pin_dir.join("maps");
    let pin = maps_dir.join("CONFIG");
    if !pin.exists() {
        let is_empty = fs::read_dir(maps_dir).map_or(true, |mut entries| entries.next().is_none());
        return Ok(if is_empty { Pinned::Nothing } else { Pinned::Unfinished });
    }
    let foreign = |found: String| {
        anyhow::anyhow!(
            "the data plane pinned in {} was made by another version ({found}); type `netpath down` with that version, \
             or with this one, and start again",
            pin_dir.display()
        )
    };
    let map = MapData::from_pin(&pin).with_context(|| format!("open pin {}", pin.display()))?;
    let size = map.info().context("query CONFIG")?.value_size() as usize;
    if size != size_of::<Config>() {
        return Err(foreign(format!("its settings have {size} bytes, want {}", size_of::<Config>())));
    }
    let config: Array<_, Config> = Array::try_from(aya::maps::Map::Array(map)).context("open CONFIG")?;
    match config.get(&0, 0).context("read CONFIG")?.layout {
        LAYOUT => Ok(Pinned::Whole),
        0 => Ok(Pinned::Unfinished),
        layout => Err(foreign(format!("layout {layout:#x}, want {LAYOUT:#x}"))),
    }
}

/// Takes down what is half set up.
pub(super) fn undo(pin_dir: &Path) {
    for error in teardown(pin_dir).errors {
        tracing::warn!("undo the set-up: {error:#}");
    }
}
