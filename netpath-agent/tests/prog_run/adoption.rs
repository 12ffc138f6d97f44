//! What an agent makes of the pins that it finds.

use aya::maps::{Array, Map, MapData};
use netpath_agent::datapath::{Adoption, Datapath, Sizes};
use netpath_common::{Config, port_bit};

use crate::frame::UDP;
use crate::setup::Plane;

#[test]
fn a_load_that_fails_leaves_no_pin() {
    let mut plane = Plane::new();
    let (pin_dir, sizes, config) = plane.take_down();
    assert!(Datapath::load(&pin_dir, &Sizes { max_flows: u32::MAX, ..sizes }, config).is_err());
    assert!(!pin_dir.exists());
}

#[test]
fn a_set_up_that_broke_off_is_made_anew() {
    let mut plane = Plane::new();
    let (pin_dir, sizes, config) = plane.take_down();
    // The settings are what an agent writes last.
    let unfinished = Datapath::load(&pin_dir, &sizes, Config { layout: 0, ..config }).unwrap();
    drop(unfinished);
    let (_datapath, adoption) = Datapath::load(&pin_dir, &sizes, config).unwrap();
    assert_eq!(adoption, Adoption::Fresh);
    std::fs::remove_file(pin_dir.join("maps/CONFIG")).unwrap();
    let sizes = Sizes { max_flows: 128, ..sizes };
    let (datapath, adoption) = Datapath::load(&pin_dir, &sizes, config).unwrap();
    assert_eq!((adoption, datapath.sizes()), (Adoption::Fresh, sizes));
}

#[test]
fn adopted_maps_keep_their_sizes_and_lose_bits_that_no_port_holds() {
    let mut plane = Plane::new();
    plane.publish(UDP, 5353, 53);
    let pin_dir = plane.pin_dir();
    let (held, _) = port_bit(UDP, 5353).unwrap();
    let (stale, stale_bit) = port_bit(UDP, 9999).unwrap();
    let bits = |name: &str| -> Array<MapData, u64> {
        Map::Array(MapData::from_pin(pin_dir.join("maps").join(name)).unwrap()).try_into().unwrap()
    };
    let names = ["PORT_BITS", "SOURCE_BITS", "RESERVED_V4", "RESERVED_V6"];
    let before = names.map(|name| bits(name).get(&held, 0).unwrap());
    for name in names {
        bits(name).set(stale, stale_bit, 0).unwrap();
    }
    let (sizes, config) = (plane.datapath.sizes(), plane.datapath.config());
    let (datapath, adoption) =
        Datapath::load(&pin_dir, &Sizes { max_ports: 9, max_endpoints: 99, ..sizes }, config).unwrap();
    assert_eq!(datapath.image().unwrap(), plane.datapath.image().unwrap());
    assert_eq!((adoption, datapath.sizes()), (Adoption::Adopted, sizes));
    assert_eq!(names.map(|name| bits(name).get(&held, 0).unwrap()), before);
    assert_eq!(names.map(|name| bits(name).get(&stale, 0).unwrap()), [0; 4]);
}
