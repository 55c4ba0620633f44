//! Drivers that do what they must not.

use super::{
    super::{F_CTRL_VQ, F_MRG_RXBUF},
    rig::{DATA, INDIRECT, MEMORY, NEXT, Part, RECEIVE, Rig, SEND, WRITE, Wire},
};

#[tokio::test]
async fn chains_outside_memory_stop_the_device() {
    for part in [
        (MEMORY, 100),
        (MEMORY - 1, 100),
        (u64::MAX, 100),
        (u64::MAX - 99, 100),
        (DATA, u32::MAX),
    ] {
        for queue in [RECEIVE, SEND] {
            let wire = Wire::new();
            let mut rig = Rig::new(&wire, F_MRG_RXBUF);
            let write = if queue == RECEIVE { WRITE } else { 0 };
            rig.submit(queue, &[(part.0, part.1, write)]);
            wire.comes(0, 60);
            let error = rig.broken().await;
            assert!(error.contains("outside memory"), "{part:x?}: {error}");
            assert_eq!(rig.used(queue), 0);
        }
    }
}

#[tokio::test]
async fn chains_that_do_not_end_stop_the_device() {
    let loops: [&[(u16, Part, u16)]; 5] = [
        &[(0, (DATA, 100, NEXT), 0)],
        &[(0, (DATA, 100, NEXT), 1), (1, (DATA, 100, NEXT), 0)],
        &[(0, (DATA, 100, NEXT), 256)],
        &[(0, (DATA, 17, INDIRECT), 0)],
        // More than 4 GiB together.
        &[
            (0, (0, u32::MAX, NEXT), 1),
            (1, (0, u32::MAX, NEXT), 2),
            (2, (DATA, 1, 0), 0),
        ],
    ];
    for entries in loops {
        for queue in [RECEIVE, SEND, 2] {
            let wire = Wire::new();
            let mut rig = Rig::new(&wire, F_MRG_RXBUF | F_CTRL_VQ);
            for (index, (address, len, flags), next) in entries {
                let write = if queue == RECEIVE && flags & INDIRECT == 0 {
                    WRITE
                } else {
                    0
                };
                rig.descriptor(queue, *index, (*address, *len, flags | write), *next);
            }
            rig.kick(queue, 0);
            wire.comes(0, 60);
            let error = rig.broken().await;
            assert!(error.contains("does not end"), "{entries:x?}: {error}");
            assert_eq!(rig.used(queue), 0);
        }
    }
}

#[tokio::test]
async fn an_indirect_table_has_a_bound() {
    for queue in [RECEIVE, SEND] {
        let wire = Wire::new();
        let mut rig = Rig::new(&wire, F_MRG_RXBUF);
        let write = if queue == RECEIVE { WRITE } else { 0 };
        let table = 0x20_0000;
        for index in 0..2000_u16 {
            let next = if index < 1999 { NEXT } else { 0 };
            let mut bytes = DATA.to_le_bytes().to_vec();
            bytes.extend(20_u32.to_le_bytes());
            bytes.extend((write | next).to_le_bytes());
            bytes.extend((index + 1).to_le_bytes());
            rig.write(&bytes, table + 16 * u64::from(index));
        }
        rig.descriptor(queue, 0, (table, 2000 * 16, INDIRECT), 0);
        rig.kick(queue, 0);
        wire.comes(0, 60);
        assert!(rig.broken().await.contains("too many parts"));
    }
}

#[tokio::test]
async fn nothing_a_driver_writes_gets_further_than_that() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let (mut broken, mut served) = (0, 0);
    for round in 0..300 {
        let wire = Wire::new();
        let features = if round % 2 == 0 { F_MRG_RXBUF } else { 0 };
        let mut rig = Rig::new(&wire, features | F_CTRL_VQ);
        for _ in 0..4 {
            let queue = random(3) as u16;
            let write = if queue == RECEIVE { WRITE } else { 0 };
            let mut parts = Vec::new();
            for _ in 0..=random(4) {
                let address = [DATA, DATA + 100, 0x1000, 0, MEMORY - 512, MEMORY, u64::MAX];
                let len = [512, 12, 1024, 66000, 32, 1, 0, u32::MAX];
                let flags = [0, 0, WRITE, NEXT, INDIRECT, u16::MAX];
                // Mostly good ones.
                parts.push((
                    address[random(7).min(random(7)) as usize],
                    len[random(8).min(random(8)) as usize],
                    write ^ flags[random(6).min(random(6)) as usize],
                ));
            }
            if queue == 2 {
                parts.push((DATA, 1, WRITE));
            }
            rig.submit(queue, &parts);
            if queue == RECEIVE {
                // A frame that a buffer may have no room for is lost; some later one has.
                for len in [60, 12, 13, 66] {
                    wire.comes(0, len);
                }
                wire.comes(0, 12);
            }
            if queue != RECEIVE && rig.done_or_broken(queue).await {
                broken += 1;
                break;
            }
            served += 1;
        }
    }
    assert!(broken > 50 && served > 50, "{broken} {served}");
}
