//! Good requests, and those that ask for what is not there.

use super::{
    super::{super::Device, F_DISCARD, F_FLUSH, F_RO, F_WRITE_ZEROES, Policies, disk::REQUEST_MAX},
    rig::{DATA, FLUSH, HEAD, IN, Image, OUT, Rig, SECTORS, STATUS, WRITE},
};

const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

fn rig(image: &std::sync::Arc<Image>) -> Rig {
    Rig::new(image, Policies::default(), F_FLUSH)
}

#[tokio::test]
async fn data_goes_to_its_sectors_and_comes_back() {
    let image = Image::new();
    let mut rig = rig(&image);
    rig.write(&[7; 1024], DATA);
    rig.head(OUT, 5);
    assert_eq!(
        rig.serve(&[(DATA, 1000, 0), (DATA + 1000, 24, 0)]).await,
        (OK, 1)
    );
    {
        let state = image.state.lock().unwrap();
        let (before, rest) = state.bytes.split_at(5 * 512);
        assert!(before.iter().all(|byte| *byte == 0));
        assert!(rest[..1024].iter().all(|byte| *byte == 7));
    }
    rig.head(IN, 4);
    let read = [(DATA + 0x1000, 1, WRITE), (DATA + 0x1001, 1535, WRITE)];
    assert_eq!(rig.serve(&read).await, (OK, 1537));
    let back = rig.read(DATA + 0x1000, 1537);
    assert_eq!(back[..512], [0; 512]);
    assert_eq!(back[512..1536], [7; 1024]);
    assert_eq!(back[1536], 0);
}

#[tokio::test]
async fn parts_are_cut_as_the_driver_likes() {
    let image = Image::new();
    let mut rig = rig(&image);
    // The head in three, data and status in one.
    rig.head(IN, 0);
    rig.submit(&[
        (HEAD, 1, 0),
        (HEAD + 1, 14, 0),
        (HEAD + 15, 1, 0),
        (DATA, 513, WRITE),
    ]);
    assert_eq!(rig.done().await, 513);
    // The head and data in one.
    rig.head(OUT, 1);
    rig.write(&[1; 512], HEAD + 16);
    rig.submit(&[(HEAD, 16 + 512, 0), (STATUS, 1, WRITE)]);
    rig.done().await;
    assert_eq!(image.take_calls(), ["read 0", "write 512"]);
    assert_eq!(image.state.lock().unwrap().bytes[512..1024], [1; 512]);
}

#[tokio::test]
async fn sectors_that_are_not_there_are_refused() {
    let image = Image::new();
    let mut rig = rig(&image);
    for kind in [IN, OUT] {
        let direction = if kind == IN { WRITE } else { 0 };
        for (sector, len) in [
            (SECTORS, 512),
            (SECTORS - 1, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (0, 511),
            (0, 513),
            (0, REQUEST_MAX as u32 + 512),
        ] {
            rig.head(kind, sector);
            let refused = rig.serve(&[(DATA, len, direction)]).await;
            assert_eq!(refused, (IOERR, 1), "{sector} {len}");
        }
    }
    assert!(image.take_calls().is_empty());
    rig.head(IN, SECTORS - 1);
    assert_eq!(rig.serve(&[(DATA, 512, WRITE)]).await, (OK, 513));
}

#[tokio::test]
async fn data_that_goes_the_wrong_way_is_refused() {
    let image = Image::new();
    let mut rig = rig(&image);
    rig.head(IN, 0);
    assert_eq!(rig.serve(&[(DATA, 512, 0)]).await, (IOERR, 1));
    let both = [(DATA, 512, 0), (DATA + 512, 512, WRITE)];
    assert_eq!(rig.serve(&both).await, (IOERR, 1));
    rig.head(OUT, 0);
    assert_eq!(rig.serve(&[(DATA, 512, WRITE)]).await, (IOERR, 1));
    assert_eq!(rig.serve(&both).await, (IOERR, 1));
    assert!(image.take_calls().is_empty());
}

#[tokio::test]
async fn serial_numbers_have_twenty_bytes_or_as_many_as_fit() {
    let mut rig = rig(&Image::new());
    rig.write(&[9; 32], DATA);
    rig.head(GET_ID, u64::MAX);
    assert_eq!(rig.serve(&[(DATA, 32, WRITE)]).await, (OK, 21));
    let id = rig.read(DATA, 21);
    assert_eq!(&id[..20], b"serial\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(id[20], 9);
    assert_eq!(rig.serve(&[(DATA, 3, WRITE)]).await, (OK, 4));
    rig.head(77, 0);
    assert_eq!(rig.serve(&[(DATA, 512, WRITE)]).await, (UNSUPP, 1));
}

#[tokio::test]
async fn what_was_written_is_flushed_when_that_is_asked_for() {
    let image = Image::new();
    let mut rig = rig(&image);
    let flush = async |rig: &mut Rig| {
        rig.head(FLUSH, 0);
        assert_eq!(rig.serve(&[]).await, (OK, 1));
    };
    flush(&mut rig).await;
    assert!(image.take_calls().is_empty(), "there is nothing to flush");
    rig.head(OUT, 0);
    rig.serve(&[(DATA, 512, 0)]).await;
    flush(&mut rig).await;
    assert_eq!(image.take_calls(), ["write 0", "flush"]);
    // The machine's own flush, when it is stopped; one that fails is not forgotten.
    rig.head(OUT, 1);
    rig.serve(&[(DATA, 512, 0)]).await;
    image.fail(&[5]);
    assert_eq!(rig.disk.flush().unwrap_err().raw_os_error(), Some(5));
    rig.disk.flush().unwrap();
    rig.disk.flush().unwrap();
    assert_eq!(image.take_calls(), ["write 512", "flush"]);
}

#[tokio::test]
async fn a_driver_that_cannot_flush_need_not() {
    let image = Image::new();
    let mut rig = Rig::new(&image, Policies::default(), 0);
    rig.head(OUT, 0);
    assert_eq!(rig.serve(&[(DATA, 512, 0)]).await, (OK, 1));
    assert_eq!(image.take_calls(), ["write 0", "flush"]);
}

#[tokio::test]
async fn ranges_are_discarded_and_zeroed() {
    let image = Image::new();
    let mut rig = rig(&image);
    let ranges = |rig: &Rig, ranges: &[(u64, u32, u32)]| {
        let bytes: Vec<u8> = ranges
            .iter()
            .flat_map(|(sector, count, flags)| {
                let mut range = sector.to_le_bytes().to_vec();
                range.extend(count.to_le_bytes());
                range.extend(flags.to_le_bytes());
                range
            })
            .collect();
        rig.write(&bytes, DATA);
        bytes.len() as u32
    };
    let last = SECTORS - 1;
    for (kind, asked, status, calls) in [
        (
            DISCARD,
            &[(1, 2, 0), (0, 0, 0), (last, 1, 0)][..],
            OK,
            &["discard 512 1024", "discard 32256 512"][..],
        ),
        (DISCARD, &[(1, 2, 1)], UNSUPP, &[]),
        (DISCARD, &[(0, 1, 0), (last, 2, 0)], IOERR, &[]),
        (DISCARD, &[(u64::MAX, 1, 0)], IOERR, &[]),
        (DISCARD, &[(0, u32::MAX, 0)], IOERR, &[]),
        (DISCARD, &[(0, 1, 0); 17], IOERR, &[]),
        (DISCARD, &[], IOERR, &[]),
        (WRITE_ZEROES, &[(3, 1, 0)], OK, &["zero 1536 512 false"]),
        (WRITE_ZEROES, &[(3, 1, 1)], OK, &["zero 1536 512 true"]),
        (WRITE_ZEROES, &[(3, 1, 2)], UNSUPP, &[]),
        (WRITE_ZEROES, &[(0, 0, 4)], UNSUPP, &[]),
        // Nothing to do is not the host's affair, nor an error.
        (WRITE_ZEROES, &[(0, 0, 1)], OK, &[]),
        (DISCARD, &[(0, 1, 0), (1, 1, 1)], UNSUPP, &[]),
        (WRITE_ZEROES, &[(0, 1, 0), (1, 1, 0)], IOERR, &[]),
    ] {
        let len = ranges(&rig, asked);
        rig.head(kind, 0);
        let parts: Vec<_> = (len > 0).then_some((DATA, len, 0)).into_iter().collect();
        assert_eq!(rig.serve(&parts).await, (status, 1), "{kind} {asked:?}");
        assert_eq!(image.take_calls(), calls, "{kind} {asked:?}");
    }
    // A range that is cut off.
    rig.head(DISCARD, 0);
    assert_eq!(rig.serve(&[(DATA, 15, 0)]).await, (IOERR, 1));
}

#[tokio::test]
async fn a_read_only_disk_is_only_read() {
    let mut image = Image::new();
    std::sync::Arc::get_mut(&mut image).unwrap().read_only = true;
    let mut rig = rig(&image);
    let features = rig.device.features();
    assert_eq!(features & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
    for kind in [OUT, DISCARD, WRITE_ZEROES] {
        rig.head(kind, 0);
        assert_eq!(rig.serve(&[(DATA, 512, 0)]).await, (IOERR, 1));
    }
    rig.head(IN, 0);
    assert_eq!(rig.serve(&[(DATA, 512, WRITE)]).await, (OK, 513));
    assert_eq!(image.take_calls(), ["read 0"]);
}

#[tokio::test]
async fn the_configuration_space_tells_of_size_and_limits() {
    let rig = rig(&Image::new());
    let read = |offset, len| {
        let mut bytes = vec![0xff; len];
        rig.device.read_config(offset, &mut bytes);
        bytes
    };
    let number = |offset| u32::from_le_bytes(read(offset, 4).try_into().unwrap());
    assert_eq!(read(0, 8), SECTORS.to_le_bytes());
    assert_eq!((number(8), number(12)), (65536, 126));
    assert!(u64::from(number(8)) * u64::from(number(12)) <= REQUEST_MAX as u64);
    assert_eq!(number(20), 512);
    assert_eq!((number(36), number(40), number(44)), (1 << 22, 16, 1));
    assert_eq!((number(48), number(52), number(56)), (16384, 1, 1));
    assert_eq!(read(59, 8), [0; 8]);
    assert_eq!(read(u64::MAX, 4), [0; 4]);
}

#[tokio::test]
async fn many_requests_wait_in_the_ring() {
    let image = Image::new();
    let mut rig = rig(&image);
    rig.gate.close().await;
    rig.head(IN, 0);
    for _ in 0..100 {
        rig.submit(&[(HEAD, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
    }
    tokio::task::yield_now().await;
    assert_eq!(rig.used(), 0);
    rig.gate.open();
    rig.done().await;
    assert_eq!(image.take_calls().len(), 100);
}
