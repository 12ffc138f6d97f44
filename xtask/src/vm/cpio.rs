//! The archive that a Linux kernel unpacks into its first file system: cpio in the format `newc`
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs to root.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// What stands at a path.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Folder,
    /// The bytes of a file of this machine, and its permissions.
    Copy(PathBuf, u32),
    Bytes(Vec<u8>, u32),
    Link(PathBuf),
    /// A character device by its numbers.
    Device(u32, u32),
}

/// What the archive will hold, by absolute path; a folder comes before what is in it.
#[derive(Default)]
pub(super) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Tree {
    /// Puts `node` at `path`, below folders that are made where there is nothing.
    pub(super) fn insert(&mut self, path: &Path, node: Node) {
        for folder in path.ancestors().skip(1).filter(|folder| folder.parent().is_some()) {
            self.nodes.entry(folder.to_owned()).or_insert(Node::Folder);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Puts what is at `path` on this machine at the same path, with all symbolic links on the way there.
    pub(super) fn insert_own(&mut self, path: &Path) -> Result<()> {
        // A chain of links that long is a circle.
        let mut links_left = 40;
        let mut wanted: Vec<PathBuf> = vec![path.to_owned()];
        while let Some(path) = wanted.pop() {
            let mut at = PathBuf::from("/");
            let mut parts =
                path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
            while let Some(part) = parts.next() {
                if part == Component::ParentDir {
                    at.pop();
                    continue;
                }
                at.push(part);
                let data = fs::symlink_metadata(&at).with_context(|| format!("look at {}", at.display()))?;
                if data.is_symlink() && links_left > 0 {
                    links_left -= 1;
                    let target = fs::read_link(&at).with_context(|| format!("read the link {}", at.display()))?;
                    let folder = at.parent().unwrap_or(Path::new("/"));
                    // `join` takes an absolute target as it is.
                    wanted.push(parts.fold(folder.join(&target), |rest, part| rest.join(part)));
                    self.nodes.insert(at.clone(), Node::Link(target));
                    break;
                } else if data.is_dir() {
                    self.nodes.entry(at.clone()).or_insert(Node::Folder);
                } else if data.is_file() {
                    use std::os::unix::fs::PermissionsExt as _;
                    self.nodes.insert(at.clone(), Node::Copy(at.clone(), data.permissions().mode() & 0o7777));
                }
            }
        }
        Ok(())
    }

    /// The files of this machine that are in the archive.
    pub(super) fn copies(&self) -> impl Iterator<Item = &Path> {
        self.nodes.values().filter_map(|node| match node {
            Node::Copy(path, _) => Some(path.as_path()),
            _ => None,
        })
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.nodes.contains_key(path)
    }

    /// Writes the archive.
    pub(super) fn write(&self, out: &mut impl Write) -> Result<()> {
        let mut number = 0;
        for (path, node) in &self.nodes {
            number += 1;
            write_node(out, number, path, node).with_context(|| format!("put {} into the image", path.display()))?;
        }
        Ok(entry(out, 0, 0, "TRAILER!!!".as_bytes(), 0, (0, 0), &mut io::empty())?)
    }
}

fn write_node(out: &mut impl Write, number: u32, path: &Path, node: &Node) -> Result<()> {
    let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
    match node {
        Node::Folder => entry(out, number, FOLDER | 0o755, name, 0, (0, 0), &mut io::empty())?,
        Node::Copy(own, mode) => {
            let mut file = File::open(own).with_context(|| format!("open {}", own.display()))?;
            let size = file.metadata()?.len();
            entry(out, number, FILE | mode, name, size, (0, 0), &mut file)?;
        }
        Node::Bytes(bytes, mode) => {
            entry(out, number, FILE | mode, name, bytes.len() as u64, (0, 0), &mut bytes.as_slice())?;
        }
        Node::Link(target) => {
            let mut target = target.as_os_str().as_bytes();
            entry(out, number, LINK | 0o777, name, target.len() as u64, (0, 0), &mut target)?;
        }
        Node::Device(major, minor) => {
            entry(out, number, CHARACTER_DEVICE | 0o600, name, 0, (*major, *minor), &mut io::empty())?;
        }
    }
    Ok(())
}

fn entry(
    out: &mut impl Write,
    number: u32,
    mode: u32,
    name: &[u8],
    size: u64,
    (major, minor): (u32, u32),
    content: &mut impl io::Read,
) -> io::Result<()> {
    let size = u32::try_from(size).map_err(|_| io::Error::other("larger than the format has room for"))?;
    let name_size = name.len() as u32 + 1;
    let links = 1;
    write!(out, "070701{number:08X}{mode:08X}{:016X}{links:08X}{:08X}{size:08X}{:016X}", 0, 0, 0)?;
    write!(out, "{major:08X}{minor:08X}{name_size:08X}{:08X}", 0)?;
    out.write_all(name)?;
    out.write_all(&[0])?;
    // The head has 110 bytes; names and files end at multiples of four.
    pad(out, u64::from(110 + name_size))?;
    let copied = io::copy(content, out)?;
    if copied != u64::from(size) {
        return Err(io::Error::other(format!("{copied} bytes, not {size}: it changed meanwhile")));
    }
    pad(out, copied)
}

fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    let missing = (4 - length % 4) % 4;
    out.write_all(&[0; 3][..missing as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode and content of every entry.
    fn parse(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let whole = bytes.len();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |i: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * i..14 + 8 * i]).expect("digits");
                u32::from_str_radix(text, 16).expect("a number")
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).expect("a name");
            let start = (110 + name_size).next_multiple_of(4);
            let content = bytes[start..start + size].to_vec();
            bytes = &bytes[(start + size).next_multiple_of(4)..];
            assert_eq!((whole - bytes.len()) % 4, 0);
            if name == "TRAILER!!!" {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push((name, mode, content));
        }
    }

    fn written(tree: &Tree) -> Vec<(String, u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        tree.write(&mut bytes).expect("write");
        parse(&bytes)
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.insert(Path::new("/etc/passwd"), Node::Bytes(b"root:x:0:0::/root:/bin/sh\n".to_vec(), 0o644));
        tree.insert(Path::new("/dev/console"), Node::Device(5, 1));
        let entries = written(&tree);
        let names: Vec<_> = entries.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
        assert_eq!(
            names,
            [("dev", 0o040_755), ("dev/console", 0o020_600), ("etc", 0o040_755), ("etc/passwd", 0o100_644)]
        );
        assert_eq!(entries[3].2, b"root:x:0:0::/root:/bin/sh\n");
    }

    #[test]
    fn links_on_the_way_to_a_file_come_along() {
        let dir = std::env::temp_dir().join(format!("netpath-cpio-{}", std::process::id()));
        fs::create_dir_all(dir.join("usr/bin")).expect("folders");
        fs::write(dir.join("usr/bin/dash"), "shell").expect("file");
        std::os::unix::fs::symlink("usr/bin", dir.join("bin")).expect("link");
        std::os::unix::fs::symlink("dash", dir.join("usr/bin/sh")).expect("link");
        let mut tree = Tree::default();
        tree.insert_own(&dir.join("bin/sh")).expect("insert");
        let entries = written(&tree);
        fs::remove_dir_all(&dir).expect("remove");
        let of = |path: &str| {
            let name = dir.join(path).strip_prefix("/").expect("absolute").display().to_string();
            entries.iter().find(|(found, _, _)| *found == name).map(|(_, _, content)| content.as_slice())
        };
        assert_eq!(of("bin"), Some(&b"usr/bin"[..]));
        assert_eq!(of("usr/bin/sh"), Some(&b"dash"[..]));
        assert_eq!(of("usr/bin/dash"), Some(&b"shell"[..]));
    }
}
