//! What the bench and its eBPF programs agree on. Types only.

#![no_std]

/// Length of every generated frame, in bytes.
pub const FRAME_LEN: usize = 64;

/// Where source and destination port stand in a generated frame.
pub const SRC_PORT_OFF: usize = 34;
pub const DST_PORT_OFF: usize = 36;

/// Map `ORDER`: what `generate` makes. The bench writes it, the program reads it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Order {
    /// The interface that the frames leave by; 0 for none.
    pub ifindex: u32,
    /// As many source ports, from the frame's own upwards; then the next destination port has its turn. Of 0 and 1 all
    /// frames are the same.
    pub src_ports: u32,
    pub frame: [u8; FRAME_LEN],
}

const _: () = assert!(size_of::<Order>() == 72);

impl Order {
    /// As the map holds it.
    pub fn bytes(&self) -> [u8; 72] {
        let mut bytes = [0; 72];
        bytes[..4].copy_from_slice(&self.ifindex.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.src_ports.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.frame);
        bytes
    }
}
