//! The configuration space, and the link in it.

use std::io::ErrorKind;

use super::{
    super::{super::Device, F_CTRL_GUEST_OFFLOADS, F_GUEST_CSUM, F_MQ, F_MTU, Net, NetConfig},
    rig::{DATA, RECEIVE, Rig, WRITE, Wire, config, frame},
};

impl Rig {
    fn is_up(&self) -> bool {
        space(&self.device)[6] == 1
    }
}

fn space(device: &Net) -> [u8; 14] {
    let mut space = [0xff; 14];
    device.read_config(0, &mut space);
    space
}

#[test]
fn a_card_offers_what_it_has() {
    let plain = Net::of(config(Wire::new()));
    assert_eq!(space(&plain), [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(plain.queues().len(), 3);
    assert_eq!(plain.features() & (F_MTU | F_MQ | F_CTRL_GUEST_OFFLOADS), 0);
    let all = Net::of(NetConfig {
        mtu: Some(9000),
        link_down: true,
        ..config(Wire::with(F_GUEST_CSUM, 2))
    });
    assert_eq!(
        space(&all),
        [2, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0x28, 0x23, 0, 0]
    );
    assert_eq!(all.queues().len(), 5);
    let features = F_MTU | F_MQ | F_CTRL_GUEST_OFFLOADS | F_GUEST_CSUM;
    assert_eq!(all.features() & features, features);
    let mut part = [0; 4];
    all.read_config(10, &mut part);
    assert_eq!(part, [0x28, 0x23, 0, 0]);
    all.read_config(u64::MAX, &mut part);
    assert_eq!(part, [0; 4]);
}

#[tokio::test]
async fn without_a_link_frames_are_dropped_both_ways() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    rig.submit(RECEIVE, &[(DATA + 0x1000, 2000, WRITE)]);
    wire.until("start", |state| !state.calls.is_empty()).await;
    rig.card.set_link(false);
    rig.reconfigured().await;
    assert!(!rig.is_up());
    wire.comes(0, 60);
    wire.waits_with(0).await;
    rig.send(&frame(60));
    rig.sent().await;
    assert!(wire.state.lock().unwrap().sent.is_empty());

    rig.card.set_link(true);
    rig.reconfigured().await;
    assert!(rig.is_up());
    let there = wire.comes(0, 61);
    rig.comes_back(RECEIVE, 1).await;
    assert_eq!(rig.element(RECEIVE, 0).1, 61);
    assert_eq!(rig.read(DATA + 0x1000 + 12, 49), there[12..]);
    rig.send(&frame(62));
    rig.sent().await;
    assert_eq!(wire.state.lock().unwrap().sent, [frame(62)]);
}

#[tokio::test]
async fn frames_that_came_before_the_link_do_not_come_after_it() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    // There are no buffers yet: the device waits for them.
    wire.comes(0, 60);
    wire.until("start", |state| !state.calls.is_empty()).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(wire.waiting(), 1);
    rig.card.set_link(false);
    wire.waits_with(0).await;
    rig.card.set_link(true);
    rig.submit(RECEIVE, &[(DATA, 2000, WRITE)]);
    wire.comes(0, 61);
    rig.comes_back(RECEIVE, 1).await;
    assert_eq!(rig.element(RECEIVE, 0).1, 61);
}

#[tokio::test]
async fn a_change_that_is_none_is_not_told() {
    let wire = Wire::new();
    let mut rig = Rig::new(&wire, 0);
    wire.until("start", |state| !state.calls.is_empty()).await;
    rig.card.set_link(true);
    rig.send(&frame(60));
    rig.sent().await;
    assert_eq!(rig.interrupt.status() & 2, 0);
}

#[tokio::test]
async fn a_connection_that_is_lost_takes_the_link_down() {
    for receiving in [true, false] {
        let wire = Wire::new();
        let mut rig = Rig::new(&wire, 0);
        rig.submit(RECEIVE, &[(DATA + 0x1000, 2000, WRITE)]);
        wire.until("start", |state| !state.calls.is_empty()).await;
        let lost = Some(ErrorKind::NotConnected);
        if receiving {
            wire.change(|state| state.error = lost);
        } else {
            wire.state.lock().unwrap().error = lost;
            rig.send(&frame(60));
            rig.sent().await;
        }
        rig.reconfigured().await;
        assert!(!rig.is_up());
        // The driver may go on: frames are dropped.
        rig.send(&frame(60));
        rig.sent().await;
        assert!(wire.state.lock().unwrap().sent.is_empty());
        // The next driver finds it connected again.
        wire.state.lock().unwrap().error = None;
        let next = Rig::of(config(wire.clone()), 0);
        wire.until("start", |state| state.calls.len() == 2).await;
        assert!(next.is_up());
    }
}
