//! Commands.

use super::{
    super::{F_CTRL_GUEST_OFFLOADS, F_CTRL_VQ, F_GUEST_CSUM, F_GUEST_TSO4, F_MQ},
    rig::{DATA, RECEIVE, Rig, WRITE, Wire},
};

const ANSWER: u64 = DATA + 0x1000;

impl Rig {
    /// The answer to a command, whose bytes are cut after the first two.
    async fn command(&mut self, queue: u16, bytes: &[u8]) -> u8 {
        self.write(bytes, DATA);
        self.write(&[0xff], ANSWER);
        let data = bytes.len() as u32 - 2;
        let parts = [(DATA, 2, 0), (DATA + 2, data, 0), (ANSWER, 1, WRITE)];
        let before = self.used(queue);
        self.submit(queue, &parts);
        self.comes_back(queue, before + 1).await;
        assert_eq!(self.element(queue, before).1, 1);
        self.read(ANSWER, 1)[0]
    }
}

#[tokio::test]
async fn the_driver_says_how_many_pairs_it_uses() {
    let wire = Wire::with(0, 2);
    let mut rig = Rig::new(&wire, F_MQ | F_CTRL_VQ);
    rig.submit(2, &[(DATA + 0x2000, 2000, WRITE)]);
    wire.comes(1, 60);
    for bad in [
        &[4, 0, 0, 0][..],
        &[4, 0, 3, 0],
        &[4, 0, 2],
        &[4, 0, 2, 0, 0],
        &[4, 1, 2, 0],
    ] {
        assert_eq!(rig.command(4, bad).await, 1, "{bad:?}");
    }
    assert_eq!(wire.take_calls(), ["start 0"]);
    // The second pair is not in use yet.
    assert_eq!(rig.used(2), 0);
    assert_eq!(rig.command(4, &[4, 0, 2, 0]).await, 0);
    rig.comes_back(2, 1).await;
    // Nor now.
    assert_eq!(rig.command(4, &[4, 0, 1, 0]).await, 0);
    rig.submit(2, &[(DATA + 0x2000, 2000, WRITE)]);
    wire.comes(1, 60);
    rig.submit(RECEIVE, &[(DATA + 0x3000, 2000, WRITE)]);
    wire.comes(0, 60);
    rig.comes_back(RECEIVE, 1).await;
    assert_eq!(rig.used(2), 1);
    assert_eq!(wire.take_calls(), ["pairs 2", "pairs 1"]);
}

#[tokio::test]
async fn without_several_pairs_the_third_queue_takes_commands() {
    let wire = Wire::with(0, 2);
    let mut rig = Rig::new(&wire, F_CTRL_VQ);
    assert_eq!(rig.command(2, &[4, 0, 1, 0]).await, 1);
    assert_eq!(wire.take_calls(), ["start 0"]);
}

#[tokio::test]
async fn offloads_are_some_of_those_agreed_on() {
    let offered = F_GUEST_CSUM | F_GUEST_TSO4;
    let wire = Wire::with(offered, 1);
    let mut rig = Rig::new(&wire, offered | F_CTRL_VQ | F_CTRL_GUEST_OFFLOADS);
    let command = |offloads: u64| [&[5, 0][..], &offloads.to_le_bytes()].concat();
    assert_eq!(rig.command(2, &command(F_GUEST_CSUM)).await, 0);
    assert_eq!(rig.command(2, &command(0)).await, 0);
    assert_eq!(rig.command(2, &command(1 << 8)).await, 1);
    assert_eq!(rig.command(2, &command(1 << 17)).await, 1);
    assert_eq!(wire.take_calls(), ["start 82", "offloads 2", "offloads 0"]);
}

#[tokio::test]
async fn what_is_unknown_or_fails_is_refused() {
    let wire = Wire::with(0, 2);
    let mut rig = Rig::new(&wire, F_MQ | F_CTRL_VQ);
    // Promiscuous mode; the MAC address.
    assert_eq!(rig.command(4, &[0, 0, 1]).await, 1);
    assert_eq!(rig.command(4, &[1, 1, 2, 0, 0, 0, 0, 9]).await, 1);
    wire.state.lock().unwrap().error = Some(std::io::ErrorKind::Other);
    assert_eq!(rig.command(4, &[4, 0, 2, 0]).await, 1);
}

#[tokio::test]
async fn a_command_without_room_for_its_answer_stops_the_device() {
    for (parts, problem) in [
        (&[(DATA, 4, 0)][..], "no room for its answer"),
        (&[(DATA, 1, 0), (ANSWER, 1, WRITE)], "no command"),
        (&[(ANSWER, 1, WRITE)], "no command"),
    ] {
        let mut rig = Rig::new(&Wire::new(), F_CTRL_VQ);
        rig.submit(2, parts);
        let error = rig.broken().await;
        assert!(error.contains(problem), "{parts:?}: {error}");
    }
}
