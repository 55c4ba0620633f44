//! The balloon, with a driver that writes its own rings.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::{
    super::testing::{DEADLINE, FREE, MEMORY, NEXT, Part, Rig, WRITE},
    *,
};

struct Guest {
    rig: Rig,
    device: BalloonDevice,
    balloon: Arc<Balloon>,
    events: mpsc::UnboundedReceiver<u64>,
}

impl Guest {
    fn new(config: BalloonConfig) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let on_change = Box::new(move |actual| sender.send(actual).unwrap());
        let balloon = Balloon::new(config, MEMORY, on_change);
        let mut device = BalloonDevice::new(balloon.clone());
        let rig = Rig::new(&mut device, F_STATS_VQ | F_PAGE_REPORTING);
        Self {
            rig,
            device,
            balloon,
            events,
        }
    }

    fn reporting() -> Self {
        Self::new(BalloonConfig {
            free_page_reporting: true,
            ..Default::default()
        })
    }

    /// Fills all of the test's memory.
    fn fill(&self) {
        let bytes = vec![7; (MEMORY - FREE) as usize];
        self.rig.write(&bytes, FREE);
    }

    fn is_zero(&self, page: u64) -> bool {
        let bytes = self.rig.read(page * PAGE, PAGE as usize);
        let all = |value| bytes.iter().all(|byte| *byte == value);
        assert!(all(0) || all(7));
        all(0)
    }

    /// Makes a request of these pages' numbers.
    fn name(&mut self, queue: usize, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.rig.write(&bytes, FREE);
        self.rig.submit(queue, &[(FREE, bytes.len() as u32, 0)]);
    }

    async fn event(&mut self) -> u64 {
        let event = timeout(DEADLINE, self.events.recv()).await;
        event.unwrap().unwrap()
    }

    fn config(&self) -> (u32, u32) {
        let mut bytes = [0; 12];
        self.device.read_config(0, &mut bytes);
        assert_eq!(bytes[8..], [0; 4]);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        (word(0), word(4))
    }
}

#[tokio::test]
async fn pages_given_back_are_zero_and_may_be_used_again() {
    let mut guest = Guest::new(BalloonConfig::default());
    guest.fill();
    // Out of order, and one twice; the last page of all.
    let last = (MEMORY / PAGE) as u32 - 1;
    guest.name(INFLATE, &[0x203, last, 0x201, 0x202, 0x201, 0x300]);
    guest.rig.used(INFLATE).await;
    for page in 0x101..=u64::from(last) {
        let given = [0x201, 0x202, 0x203, 0x300, u64::from(last)].contains(&page);
        assert_eq!(guest.is_zero(page), given, "{page:x}");
    }
    guest.name(DEFLATE, &[0x201]);
    guest.rig.used(DEFLATE).await;
    guest.rig.write(&[7; PAGE as usize], 0x201 * PAGE);
    assert!(!guest.is_zero(0x201));
}

#[tokio::test]
async fn reported_ranges_are_given_back() {
    let mut guest = Guest::reporting();
    guest.fill();
    let parts: &[Part] = &[
        (0x20_0000, 0x4000, WRITE),
        (MEMORY - PAGE, PAGE as u32, WRITE),
    ];
    guest.rig.submit(REPORTING, parts);
    guest.rig.used(REPORTING).await;
    for page in [0x200, 0x203, MEMORY / PAGE - 1] {
        assert!(guest.is_zero(page));
    }
    assert!(!guest.is_zero(0x1ff) && !guest.is_zero(0x204));
}

#[tokio::test]
async fn what_is_no_memory_stops_the_device() {
    let after = (MEMORY / PAGE) as u32;
    for queue in [INFLATE, DEFLATE] {
        for pages in [
            &[after][..],
            &[u32::MAX],
            &[0x200, 0xf_ffff],
            &[after - 1, after],
        ] {
            let mut guest = Guest::reporting();
            guest.fill();
            guest.name(queue, pages);
            let error = guest.rig.broken().await;
            assert!(error.contains("is no memory"), "{pages:x?}: {error}");
            assert!(!guest.is_zero(0x200), "nothing of a bad request is done");
        }
    }
    for part in [
        (MEMORY, 4096, WRITE),
        (MEMORY - PAGE, 8192, WRITE),
        (0x20_0001, 4096, WRITE),
        (0x20_0000, 100, WRITE),
        (u64::MAX - 4095, 4096, WRITE),
        (0x20_0000, 0x8000_0000, WRITE),
    ] {
        let mut guest = Guest::reporting();
        guest.fill();
        guest
            .rig
            .submit(REPORTING, &[(0x20_0000, 4096, WRITE), part]);
        assert!(
            guest.rig.broken().await.contains("is no memory"),
            "{part:x?}"
        );
        assert!(!guest.is_zero(0x200));
    }
}

#[tokio::test]
async fn requests_that_are_none_stop_the_device() {
    for (queue, parts, problem) in [
        (INFLATE, &[(FREE, 3, 0)][..], "half a page's number"),
        (INFLATE, &[(FREE, (4 << 16) + 4, 0)], "too many pages"),
        (DEFLATE, &[(FREE, 5, 0)], "half a page's number"),
        (INFLATE, &[(MEMORY, 4, 0)], "queue"),
        (STATISTICS, &[(MEMORY - 1, 10, 0)], "queue"),
    ] {
        let mut guest = Guest::reporting();
        guest.rig.submit(queue, parts);
        let error = guest.rig.broken().await;
        assert!(error.contains(problem), "{parts:x?}: {error}");
    }
    for queue in 0..4 {
        let mut guest = Guest::reporting();
        guest
            .rig
            .descriptor(queue, 0, (FREE, 4096, NEXT | WRITE), 0);
        guest.rig.offer(queue, 0);
        assert!(guest.rig.broken().await.contains("does not end"));
    }
}

#[tokio::test]
async fn the_owner_sets_a_target_and_the_driver_tells_what_it_did() {
    let config = BalloonConfig {
        size: Some(MEMORY - 2 * PAGE - 1),
        ..Default::default()
    };
    let mut guest = Guest::new(config);
    assert_eq!((guest.config(), guest.balloon.actual()), ((3, 0), MEMORY));
    guest.balloon.set_target(MEMORY / 2);
    timeout(DEADLINE, guest.rig.interrupted()).await.unwrap();
    let half = (MEMORY / PAGE / 2) as u32;
    assert_eq!(guest.config(), (half, 0));
    assert_eq!(guest.balloon.target(), MEMORY / 2);

    // The driver's own half of the space, in whole.
    guest.device.write_config(4, &half.to_le_bytes());
    let actual = MEMORY / 2;
    assert_eq!(guest.event().await, actual);
    guest.device.write_config(0, &[1; 4]);
    guest.device.write_config(4, &[1; 3]);
    assert_eq!(
        (guest.config(), guest.balloon.actual()),
        ((half, half), actual)
    );

    // More than it has is all of it, on both sides.
    guest.balloon.set_target(u64::MAX);
    assert_eq!((guest.config().0, guest.balloon.target()), (0, MEMORY));
    guest.device.write_config(4, &u32::MAX.to_le_bytes());
    assert_eq!(guest.balloon.actual(), 0);
    guest.balloon.set_target(0);
    assert_eq!(u64::from(guest.config().0), MEMORY / PAGE);
}

#[tokio::test]
async fn changes_are_told_once_in_a_second_and_the_last_one_is() {
    let mut guest = Guest::new(BalloonConfig::default());
    for pages in 1..=50_u32 {
        guest.device.write_config(4, &pages.to_le_bytes());
        tokio::task::yield_now().await;
    }
    let last = MEMORY - 50 * PAGE;
    let mut count = 1;
    while guest.event().await != last {
        count += 1;
    }
    assert_eq!(count, 2, "the first, and what was true a second later");
}

#[tokio::test]
async fn statistics_come_at_first_and_at_an_interval() {
    let mut guest = Guest::new(BalloonConfig {
        statistics_interval: Some(Duration::from_millis(10)),
        ..Default::default()
    });
    let entry = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    assert_eq!(guest.balloon.statistics(), None);
    for round in 1..4_u64 {
        // In two parts, with a tag that is not known, and one that the driver does not know a value of.
        let bytes = [
            entry(4, round * 100),
            entry(99, 1),
            entry(5, MEMORY),
            entry(0, u64::MAX),
            vec![1; 7],
        ]
        .concat();
        guest.rig.write(&bytes, FREE);
        let len = bytes.len() as u32;
        guest
            .rig
            .submit(STATISTICS, &[(FREE, 13, 0), (FREE + 13, len - 13, 0)]);
        // It comes back when new ones are wanted.
        assert_eq!(guest.rig.used(STATISTICS).await, (FREE, 0));
        let statistics = guest.balloon.statistics().unwrap();
        assert_eq!(statistics.free_memory, Some(round * 100));
        assert_eq!(statistics.total_memory, Some(MEMORY));
        assert_eq!((statistics.swap_in, statistics.swap_out), (None, None));
    }
    // Two at once are one too many.
    let mut silent = Guest::new(BalloonConfig::default());
    silent.rig.submit(STATISTICS, &[(FREE, 10, 0)]);
    silent.rig.submit(STATISTICS, &[(FREE, 10, 0)]);
    assert!(silent.rig.broken().await.contains("one too many"));
}

#[tokio::test]
async fn after_a_reset_the_balloon_is_empty_and_the_target_stays() {
    let mut guest = Guest::new(BalloonConfig::default());
    guest.balloon.set_target(MEMORY / 2);
    guest.device.write_config(4, &9_u32.to_le_bytes());
    guest.rig.submit(STATISTICS, &[(FREE, 10, 0)]);
    guest.event().await;
    guest.rig.reset().await;
    assert_eq!(guest.balloon.actual(), MEMORY);
    assert_eq!(guest.balloon.statistics(), None);
    assert_eq!(guest.balloon.target(), MEMORY / 2);
    let target = (MEMORY / PAGE / 2) as u32;
    let mut bytes = [0; 8];
    guest.device.read_config(0, &mut bytes);
    assert_eq!(bytes[..4], target.to_le_bytes());
    assert_eq!(bytes[4..], [0; 4]);
}

#[test]
fn what_is_not_wanted_is_not_offered() {
    for (deflate_on_oom, free_page_reporting, features, queues) in [
        (false, false, F_STATS_VQ, 3),
        (true, false, F_STATS_VQ | F_DEFLATE_ON_OOM, 3),
        (false, true, F_STATS_VQ | F_PAGE_REPORTING, 4),
    ] {
        let config = BalloonConfig {
            deflate_on_oom,
            free_page_reporting,
            ..Default::default()
        };
        let device = BalloonDevice::new(Balloon::new(config, MEMORY, Box::new(drop)));
        assert_eq!(device.features(), features);
        assert_eq!(device.queues().len(), queues);
    }
}
