//! Drivers that do what they must not.

use super::{
    super::{F_FLUSH, Policies},
    rig::{DATA, HEAD, IN, INDIRECT, Image, MEMORY, NEXT, OUT, Part, Rig, STATUS, TABLE, WRITE},
};

const THE_HEAD: Part = (HEAD, 16, 0);
const THE_STATUS: Part = (STATUS, 1, WRITE);

#[tokio::test]
async fn chains_that_are_no_requests_stop_the_device() {
    for (parts, problem) in [
        (&[(HEAD, 15, 0), THE_STATUS][..], "has no head"),
        (&[THE_STATUS], "has no head"),
        (&[(HEAD, 16, WRITE)], "has no head"),
        (&[THE_HEAD], "has no room for its status"),
        (&[THE_HEAD, (DATA, 512, 0)], "has no room for its status"),
        (
            &[THE_HEAD, (DATA, 0, WRITE), THE_STATUS],
            "has an empty part",
        ),
        (
            &[THE_HEAD, (DATA, 512, 0), (STATUS, 0, WRITE)],
            "has an empty part",
        ),
        (
            &[THE_HEAD, (STATUS, 1, WRITE), (DATA, 512, 0)],
            "has parts in the wrong order",
        ),
        (
            &[THE_HEAD, (MEMORY, 512, WRITE), THE_STATUS],
            "leads outside memory",
        ),
        (
            &[THE_HEAD, (MEMORY - 1, 2, WRITE), THE_STATUS],
            "leads outside memory",
        ),
        (
            &[THE_HEAD, (u64::MAX, 512, WRITE), THE_STATUS],
            "leads outside memory",
        ),
        (
            &[THE_HEAD, (DATA, u32::MAX - 100, WRITE), THE_STATUS],
            "leads outside memory",
        ),
        (
            &[(u64::MAX - 15, 16, 0), THE_STATUS],
            "leads outside memory",
        ),
        (&[THE_HEAD, (MEMORY, 1, WRITE)], "leads outside memory"),
        // More than 4 GiB together.
        (
            &[
                THE_HEAD,
                (0, u32::MAX, WRITE),
                (0, u32::MAX, WRITE),
                THE_STATUS,
            ],
            "does not end",
        ),
    ] {
        for kind in [IN, OUT] {
            let image = Image::new();
            let mut rig = Rig::new(&image, Policies::default(), F_FLUSH);
            rig.head(kind, 0);
            rig.submit(parts);
            let error = rig.broken().await;
            assert!(error.contains(problem), "{parts:x?}: {error}");
            assert!(image.take_calls().is_empty(), "{parts:x?}");
            assert_eq!(rig.used(), 0, "{parts:x?}");
        }
    }
}

#[tokio::test]
async fn chains_that_do_not_end_stop_the_device() {
    /// A table's address, a descriptor's number and parts, and its next one's number.
    type Entry = (u64, u16, Part, u16);
    let next = |part: Part| (part.0, part.1, part.2 | NEXT);
    let indirect = |len| (DATA, len, INDIRECT);
    let loops: [&[Entry]; 6] = [
        &[(TABLE, 0, next(THE_HEAD), 0)],
        &[
            (TABLE, 0, next(THE_HEAD), 1),
            (TABLE, 1, next(THE_STATUS), 0),
        ],
        &[(TABLE, 0, next(THE_HEAD), 128)],
        &[(TABLE, 0, next(THE_HEAD), u16::MAX)],
        // An indirect table within another, and one of no whole number of descriptors.
        &[(TABLE, 0, indirect(16), 0), (DATA, 0, indirect(16), 0)],
        &[(TABLE, 0, indirect(17), 0)],
    ];
    for entries in loops {
        let image = Image::new();
        let mut rig = Rig::new(&image, Policies::default(), F_FLUSH);
        rig.head(OUT, 0);
        for (table, index, part, next) in entries {
            rig.descriptor(*table, *index, *part, *next);
        }
        rig.kick();
        let error = rig.broken().await;
        assert!(error.contains("does not end"), "{entries:x?}: {error}");
        assert!(image.take_calls().is_empty(), "{entries:x?}");
    }
}

#[tokio::test]
async fn an_indirect_table_has_a_bound() {
    let image = Image::new();
    let mut rig = Rig::new(&image, Policies::default(), F_FLUSH);
    rig.head(IN, 0);
    let table = 0x10_0000;
    rig.descriptor(table, 0, (HEAD, 16, NEXT), 1);
    for index in 1..2000 {
        rig.descriptor(table, index, (DATA, 1, WRITE | NEXT), index + 1);
    }
    rig.descriptor(table, 2000, THE_STATUS, 0);
    rig.descriptor(TABLE, 0, (table, 2001 * 16, INDIRECT), 0);
    rig.kick();
    assert!(rig.broken().await.contains("has too many parts"));
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
    for _ in 0..300 {
        let image = Image::new();
        let mut rig = Rig::new(&image, Policies::default(), F_FLUSH);
        for _ in 0..4 {
            let kind = [IN, OUT, 4, 8, 11, 13, 99][random(7) as usize];
            rig.head(kind, [0, 1, 63, 64, u64::MAX][random(5) as usize]);
            let mut parts = vec![THE_HEAD];
            for _ in 0..random(4) {
                let address = [DATA, HEAD, STATUS, TABLE, 0, MEMORY - 512, MEMORY, u64::MAX];
                let len = [512, 16, 1024, 1, 32, 513, 0, u32::MAX];
                let flags = [WRITE, 0, WRITE | NEXT, NEXT, INDIRECT, u16::MAX];
                // Mostly good ones.
                parts.push((
                    address[random(8).min(random(8)) as usize],
                    len[random(8).min(random(8)) as usize],
                    flags[random(6).min(random(6)) as usize],
                ));
            }
            parts.push(THE_STATUS);
            rig.submit(&parts);
            if rig.done_or_broken().await {
                broken += 1;
                break;
            }
            served += 1;
        }
    }
    assert!(broken > 50 && served > 50, "{broken} {served}");
}
