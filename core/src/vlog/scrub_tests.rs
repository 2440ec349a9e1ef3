//! The scrub: it finds what nobody reads, and is in nobody's way.

use super::tests::World;
use crate::fault::Fault;
use crate::ids::{LogPtr, SegmentId};

/// Reads everything once; the segments that were bad.
fn pass(world: &mut World) -> Vec<SegmentId> {
    while world.scrub() {
        world.settle();
    }
    let found = std::mem::take(&mut world.rotten);
    found.iter().map(|fault| damaged(fault).segment).collect()
}

fn damaged(fault: &Fault) -> LogPtr {
    match fault {
        Fault::LogDamaged { segment, offset, .. } | Fault::LogUnreadable { segment, offset, .. } => {
            LogPtr { segment: *segment, offset: *offset }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn every_complete_segment_is_read_again_and_damage_is_named() {
    let mut world = World::long();
    let active = world.log.durable_end().segment;
    assert_eq!(pass(&mut world), []);
    let whole = world.log.scrubbed();
    assert_eq!((whole.passes, whole.bad_segments), (1, 0));
    let victims: Vec<_> = world.placed().into_iter().map(|placed| placed.ptr.segment).collect();
    let (first, last) = (victims[0], *victims.iter().rev().find(|id| **id < active).unwrap());
    for segment in [first, last, active] {
        let victim = world.placed().into_iter().rev().find(|placed| placed.ptr.segment == segment).unwrap();
        world.damage(victim);
    }
    assert_eq!(pass(&mut world), [first, last], "the one that is written to has its turn later");
    assert_eq!(world.log.scrubbed().bad_segments, 2);
    // It goes on in the same way, and writes are not touched.
    world.stage_many(1);
    world.settle();
    assert!(world.log.read_only().is_none());
    assert_eq!(pass(&mut world).len(), 2);
}

#[test]
fn gc_frees_what_is_not_being_read_and_the_scrub_goes_on_behind_it() {
    let mut world = World::long();
    assert!(world.scrub());
    let first = world.placed()[0].ptr.segment;
    // The first piece is on its way: its segment stays for now.
    world.gc();
    while world.log.gc().unwrap().1 <= first {
        world.seal();
        world.run_all_but_reads();
    }
    world.release();
    assert_eq!(world.log.segments().next().unwrap().segment, first, "held by the scrub");
    world.settle();
    world.release();
    assert!(world.log.segments().next().unwrap().segment > first);
    assert_eq!(pass(&mut world), []);
    assert_eq!(world.log.scrubbed().passes, 1);
}
