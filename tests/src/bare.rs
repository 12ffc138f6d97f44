//! A client, a host and the wire between them, with no data plane: what a [`crate::World`] stands on. Whoever makes one
//! builds the rest.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::rc::Rc;

use crate::{Namespace, cleanup, topology};

/// Namespaces and a wire. Dropping it removes everything.
pub struct Bare {
    name: String,
    pub host: Namespace,
    pub client: Namespace,
    namespaces: RefCell<Vec<Rc<Namespace>>>,
    programs: RefCell<Vec<Child>>,
}

impl Bare {
    #[expect(clippy::new_without_default, reason = "it changes the machine")]
    pub fn new() -> Self {
        let name = cleanup::new_world();
        let (host, client) = (Namespace::new(&format!("{name}-host")), Namespace::new(&format!("{name}-client")));
        topology::lay_wire(&host, &client, 0);
        Self { name, host, client, namespaces: RefCell::default(), programs: RefCell::default() }
    }

    /// What everything of it is named after.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory of its own.
    pub fn dir(&self) -> PathBuf {
        cleanup::directory(&self.name)
    }

    /// A namespace that is connected to nothing.
    pub fn namespace(&self, name: &str) -> Rc<Namespace> {
        let namespace = Rc::new(Namespace::new(&format!("{}-{name}", self.name)));
        self.namespaces.borrow_mut().push(Rc::clone(&namespace));
        namespace
    }

    /// Starts a program that ends with this.
    pub fn spawn(&self, command: &mut Command) {
        let child = command.spawn().unwrap_or_else(|e| panic!("run {command:?}: {e}"));
        self.programs.borrow_mut().push(child);
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        for program in self.programs.get_mut() {
            let _ = program.kill();
            let _ = program.wait();
        }
        cleanup::remove(&self.name);
    }
}
