//! A disk whose size changes while it is in use.

use std::{sync::Arc, task};

use super::{
    super::{super::Device, F_FLUSH, Policies, ResizeError},
    rig::{DATA, IN, Image, OUT, Rig, SECTORS, WRITE},
};

/// Of the interrupt status: the configuration has changed.
const CONFIGURATION: u32 = 2;

fn rig(image: &Arc<Image>) -> Rig {
    Rig::new(image, Policies::default(), F_FLUSH)
}

fn capacity(rig: &Rig) -> u64 {
    let mut bytes = [0xff; 8];
    rig.device.read_config(0, &mut bytes);
    u64::from_le_bytes(bytes)
}

#[tokio::test]
async fn the_driver_is_told_and_requests_see_the_new_size() {
    let mut rig = rig(&Image::new());
    let beyond = async |rig: &mut Rig, sector| {
        rig.head(OUT, sector);
        rig.serve(&[(DATA, 512, 0)]).await.0
    };
    assert_eq!(beyond(&mut rig, SECTORS).await, 1);
    rig.disk
        .resize(Some(2 * SECTORS * 512), false)
        .await
        .unwrap();
    assert_eq!(capacity(&rig), 2 * SECTORS);
    assert_eq!(rig.interrupt.status() & CONFIGURATION, CONFIGURATION);
    assert_eq!(beyond(&mut rig, 2 * SECTORS - 1).await, 0);
    assert_eq!(beyond(&mut rig, 2 * SECTORS).await, 1);

    rig.interrupt.acknowledge(u32::MAX);
    rig.disk.resize(Some(512), true).await.unwrap();
    assert_eq!((capacity(&rig), beyond(&mut rig, 1).await), (1, 1));
    assert_eq!(rig.interrupt.status() & CONFIGURATION, CONFIGURATION);
    // What its image has become; then the same once more, which is no change.
    rig.disk.resize(None, false).await.unwrap();
    assert_eq!(capacity(&rig), 2048);
    rig.interrupt.acknowledge(u32::MAX);
    rig.disk.resize(None, false).await.unwrap();
    assert_eq!(rig.interrupt.status(), 0);
}

#[tokio::test]
async fn without_a_driver_nobody_is_told() {
    let mut rig = rig(&Image::new());
    rig.head(IN, 0);
    rig.serve(&[(DATA, 512, WRITE)]).await;
    rig.leave().await;
    rig.interrupt.acknowledge(u32::MAX);
    rig.disk.resize(Some(512), true).await.unwrap();
    assert_eq!((capacity(&rig), rig.interrupt.status()), (1, 0));
}

#[tokio::test]
async fn what_is_under_way_is_waited_for() {
    let rig = rig(&Image::new());
    let access = rig.disk.enter(&rig.gate).await;
    let mut resize = std::pin::pin!(rig.disk.resize(Some(512), true));
    let mut context = task::Context::from_waker(task::Waker::noop());
    assert!(resize.as_mut().poll(&mut context).is_pending());
    assert_eq!(capacity(&rig), SECTORS);
    drop(access);
    resize.await.unwrap();
    assert_eq!(capacity(&rig), 1);
}

#[tokio::test]
async fn a_size_that_is_refused_changes_nothing() {
    let image = Image::new();
    let mut rig = rig(&image);
    let is = SECTORS * 512;
    for no_size in [0, 511, is + 1] {
        let error = rig.disk.resize(Some(no_size), true).await.unwrap_err();
        assert!(matches!(error, ResizeError::Size(size) if size == no_size));
    }
    let error = rig.disk.resize(Some(is - 512), false).await.unwrap_err();
    assert!(matches!(error, ResizeError::Shrinks { now, asked } if (now, asked) == (is, is - 512)));
    image.fail(&[27]);
    let error = rig.disk.resize(Some(is + 512), false).await.unwrap_err();
    assert!(matches!(error, ResizeError::Io(_)), "{error}");
    assert_eq!((capacity(&rig), rig.interrupt.status()), (SECTORS, 0));
    // And it goes on.
    rig.head(IN, SECTORS - 1);
    assert_eq!(rig.serve(&[(DATA, 512, WRITE)]).await.0, 0);

    let mut image = Image::new();
    Arc::get_mut(&mut image).unwrap().read_only = true;
    let rig = self::rig(&image);
    let error = rig.disk.resize(Some(is + 512), false).await.unwrap_err();
    assert!(matches!(error, ResizeError::ReadOnly));
    rig.disk.resize(None, false).await.unwrap();
    assert_eq!(capacity(&rig), 2048);
}
