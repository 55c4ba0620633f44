//! The calls of `VmService`, one method each: names and typed values in, messages out.

use std::time::Duration;

use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    ByteInput, ConsoleOutput, Endpoint, Error, EventStream, Feed, RecordStream, TlsFiles, VmStream,
    transport,
    v1::{self, vm_service_client::VmServiceClient},
};

/// The largest reply taken: room for many thousand machines in one list.
const REPLY_MAX: usize = 64 << 20;

/// A connection to a daemon.
///
/// Clones share the connection, and calls may run side by side. Every method answers
/// [`Error::Refused`] if the daemon said no and [`Error::Unreachable`] if the connection broke.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    service: VmServiceClient<Channel>,
    /// Of each call that changes something; empty: none.
    request_id: String,
    /// How long a call may take.
    deadline: Option<Duration>,
}

/// Writes a method for each call that takes a machine's name and answers a `CommandResponse`.
macro_rules! commands {
    ($($(#[$doc:meta])* $method:ident => $call:ident($request:ident);)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// See [`Client`].
        pub async fn $method(&self, name: &str) -> Result<v1::CommandResponse, Error> {
            let request = v1::$request {
                name: name.to_owned(),
                request_id: self.request_id.clone(),
            };
            self.answer(self.service().$call(self.timed(request)).await)
        }
    )*};
}

impl Client {
    /// Connects to the daemon at `endpoint`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if nobody answers there.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, Error> {
        Self::connect_with(endpoint, None).await
    }

    /// The same; an `https` address needs `tls`, which others ignore.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if nobody answers there, or is not believed, [`Error::Tls`] if the files cannot be used.
    pub async fn connect_with(endpoint: &Endpoint, tls: Option<&TlsFiles>) -> Result<Self, Error> {
        let channel = transport::connect(endpoint, tls).await?;
        let service = VmServiceClient::new(channel).max_decoding_message_size(REPLY_MAX);
        Ok(Self {
            endpoint: endpoint.clone(),
            service,
            request_id: String::new(),
            deadline: None,
        })
    }

    /// A client on the same connection whose calls end with [`Error::Deadline`] if they are not answered in this time;
    /// a stream, if it has not begun.
    #[must_use]
    pub fn with_deadline(&self, time: Duration) -> Self {
        Self {
            deadline: Some(time),
            ..self.clone()
        }
    }

    /// A client on the same connection whose call has this request id, if it changes something: repeated with the same
    /// id, it gets the first one's answer. Another call needs another id.
    #[must_use]
    pub fn with_request_id(&self, id: &str) -> Self {
        Self {
            request_id: id.to_owned(),
            ..self.clone()
        }
    }

    /// Where the daemon is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Creates a machine; its vCPUs are started unless the request says `paused`.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn create(
        &self,
        mut request: v1::CreateVmRequest,
    ) -> Result<v1::CreateVmResponse, Error> {
        self.identify(&mut request.request_id);
        self.answer(self.service().create_vm(self.timed(request)).await)
    }

    /// Reads one machine.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn get(&self, name: &str) -> Result<v1::Vm, Error> {
        Ok(self.get_with_stats(name).await?.0)
    }

    /// Reads one machine, and what it looks like from outside.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn get_with_stats(&self, name: &str) -> Result<(v1::Vm, v1::VmStats), Error> {
        let request = v1::GetVmRequest {
            name: name.to_owned(),
        };
        let reply = self.answer(self.service().get_vm(self.timed(request)).await)?;
        let none = Error::Malformed("a machine was asked for and none came");
        let stats = reply.stats.unwrap_or_default();
        Ok((reply.vm.ok_or(none)?, stats))
    }

    /// Reads all machines, ordered by name.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn list(&self) -> Result<v1::ListVmsResponse, Error> {
        self.list_page(v1::ListVmsRequest::default()).await
    }

    /// Reads the machines that a request wants: those with certain labels, or a page of them.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn list_page(
        &self,
        request: v1::ListVmsRequest,
    ) -> Result<v1::ListVmsResponse, Error> {
        self.answer(self.service().list_vms(self.timed(request)).await)
    }

    /// Changes a machine's labels, or its definition.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn update(
        &self,
        mut request: v1::UpdateVmRequest,
    ) -> Result<v1::UpdateVmResponse, Error> {
        self.identify(&mut request.request_id);
        self.answer(self.service().update_vm(self.timed(request)).await)
    }

    /// Forgets a machine that has ended; with `force`, quits it first. Answers the sequence number
    /// of its last event.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn delete(&self, name: &str, force: bool) -> Result<u64, Error> {
        self.delete_if(name, force, "").await
    }

    /// The same, but only if the machine has this etag.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn delete_if(&self, name: &str, force: bool, etag: &str) -> Result<u64, Error> {
        let request = v1::DeleteVmRequest {
            name: name.to_owned(),
            force,
            etag: etag.to_owned(),
            request_id: self.request_id.clone(),
        };
        Ok(self
            .answer(self.service().delete_vm(self.timed(request)).await)?
            .seq)
    }

    /// Builds a machine that has ended anew and starts it; with `paused` it stays in prelaunch.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn start(&self, name: &str, paused: bool) -> Result<v1::CommandResponse, Error> {
        let request = v1::StartVmRequest {
            name: name.to_owned(),
            paused,
            request_id: self.request_id.clone(),
        };
        self.answer(self.service().start_vm(self.timed(request)).await)
    }

    commands! {
        /// Starts or resumes the vCPUs.
        cont => cont(ContRequest);
        /// Stops the vCPUs.
        stop => stop(StopRequest);
        /// Resets the machine in place.
        system_reset => system_reset(SystemResetRequest);
        /// Presses the ACPI power button.
        system_powerdown => system_powerdown(SystemPowerdownRequest);
        /// Wakes the machine from ACPI S3.
        system_wakeup => system_wakeup(SystemWakeupRequest);
        /// Sends a non-maskable interrupt to every vCPU.
        inject_nmi => inject_nmi(InjectNmiRequest);
        /// Ends the machine now.
        quit => quit(QuitRequest);
    }

    /// Sets the given actions; those left unspecified stay as they are.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn set_action(
        &self,
        name: &str,
        actions: v1::Actions,
    ) -> Result<v1::CommandResponse, Error> {
        let request = v1::SetActionRequest {
            name: name.to_owned(),
            actions: Some(actions),
            request_id: self.request_id.clone(),
        };
        self.answer(self.service().set_action(self.timed(request)).await)
    }

    /// Makes a disk `size` bytes long or, without one, as long as its image is now; smaller only if `allow_shrink`.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn resize_disk(
        &self,
        name: &str,
        disk: &str,
        size: Option<u64>,
        allow_shrink: bool,
    ) -> Result<v1::CommandResponse, Error> {
        let request = v1::ResizeDiskRequest {
            name: name.to_owned(),
            disk: disk.to_owned(),
            size_bytes: size,
            allow_shrink,
            request_id: self.request_id.clone(),
        };
        self.answer(self.service().resize_disk(self.timed(request)).await)
    }

    /// Asks the guest to have `size` bytes of memory, by its balloon.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn balloon(&self, name: &str, size: u64) -> Result<v1::CommandResponse, Error> {
        let request = v1::BalloonRequest {
            name: name.to_owned(),
            size_bytes: size,
            request_id: self.request_id.clone(),
        };
        self.answer(self.service().balloon(self.timed(request)).await)
    }

    /// What a machine's balloon is at.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn query_balloon(&self, name: &str) -> Result<v1::QueryBalloonResponse, Error> {
        let name = name.to_owned();
        let request = v1::QueryBalloonRequest { name };
        self.answer(self.service().query_balloon(self.timed(request)).await)
    }

    /// Adds a device to a machine, and tells the guest. Answers what it is called.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn device_add(
        &self,
        name: &str,
        device: v1::device_add_request::Device,
    ) -> Result<v1::DeviceAddResponse, Error> {
        let request = v1::DeviceAddRequest {
            name: name.to_owned(),
            device: Some(device),
            request_id: self.request_id.clone(),
        };
        self.answer(self.service().device_add(self.timed(request)).await)
    }

    /// Asks the guest to give a device back. `DEVICE_DELETED` tells when it has.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn device_del(&self, name: &str, device: &str) -> Result<v1::CommandResponse, Error> {
        let request = v1::DeviceDelRequest {
            name: name.to_owned(),
            device: device.to_owned(),
            request_id: self.request_id.clone(),
        };
        self.answer(self.service().device_del(self.timed(request)).await)
    }

    /// Takes the link of a network card up or down.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn set_link(
        &self,
        name: &str,
        net: &str,
        up: bool,
    ) -> Result<v1::CommandResponse, Error> {
        let request = v1::SetLinkRequest {
            name: name.to_owned(),
            net: net.to_owned(),
            up,
            request_id: self.request_id.clone(),
        };
        self.answer(self.service().set_link(self.timed(request)).await)
    }

    /// Streams every event after `after_seq`, of one machine or of all, and then, unless
    /// `history_only`, those to come.
    ///
    /// # Errors
    /// See [`Client`]; a number that is not kept is told by the stream's first item or here, and
    /// [`Error::lost`] has the numbers.
    pub async fn watch_events(
        &self,
        after_seq: u64,
        name: Option<&str>,
        history_only: bool,
    ) -> Result<EventStream, Error> {
        self.watch_events_of(v1::WatchEventsRequest {
            after_seq,
            name: name.unwrap_or_default().to_owned(),
            history_only,
            ..Default::default()
        })
        .await
    }

    /// Streams the events that a request wants, such as those of certain kinds, or of machines with certain labels.
    ///
    /// # Errors
    /// As [`Client::watch_events`].
    pub async fn watch_events_of(
        &self,
        request: v1::WatchEventsRequest,
    ) -> Result<EventStream, Error> {
        self.feed(self.service().watch_events(self.timed(request)).await)
    }

    /// The same of the audit trail, which only an admin may read: a log of its own, with its own numbers.
    ///
    /// # Errors
    /// As [`Self::watch_events`].
    pub async fn watch_audit(
        &self,
        after_seq: u64,
        name: Option<&str>,
        history_only: bool,
    ) -> Result<EventStream, Error> {
        let request = v1::WatchEventsRequest {
            after_seq,
            name: name.unwrap_or_default().to_owned(),
            history_only,
            audit: true,
            ..Default::default()
        };
        self.watch_events_of(request).await
    }

    /// Streams one machine, or all, as they are and as they change.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn watch_vms(&self, name: Option<&str>) -> Result<VmStream, Error> {
        self.watch_vms_of(v1::WatchVmsRequest {
            name: name.unwrap_or_default().to_owned(),
            ..Default::default()
        })
        .await
    }

    /// Streams the machines that a request wants, such as those with certain labels.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn watch_vms_of(&self, request: v1::WatchVmsRequest) -> Result<VmStream, Error> {
        self.feed(self.service().watch_vms(self.timed(request)).await)
    }

    /// Records a machine until it ends or the stream is dropped. The lines are a journal: see
    /// `vmm::runstate::journal`.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn record(&self, name: &str) -> Result<RecordStream, Error> {
        let request = v1::RecordRequest {
            name: name.to_owned(),
        };
        self.feed(self.service().record(self.timed(request)).await)
    }

    /// Connects to the first serial port; with `skip_history`, what the guest wrote earlier is not
    /// sent.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn console(
        &self,
        name: &str,
        skip_history: bool,
    ) -> Result<(ByteInput, ConsoleOutput), Error> {
        let (input, pieces) = ByteInput::new();
        let hello = v1::ConsoleRequest {
            name: name.to_owned(),
            skip_history,
            ..Default::default()
        };
        let more = pieces.map(|input| v1::ConsoleRequest {
            input,
            ..Default::default()
        });
        let requests = tokio_stream::once(hello).chain(more);
        let feed = self.feed(self.service().console(requests).await)?;
        Ok((input, ConsoleOutput::new(feed)))
    }

    /// Reads the first serial port alone: what is kept of its output, as `request` says, and what follows unless it is
    /// `history_only`. That of a machine that has ended can be read, too.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn logs(&self, request: v1::ConsoleRequest) -> Result<ConsoleOutput, Error> {
        let requests = tokio_stream::once(request);
        let feed = self.feed(self.service().console(requests).await)?;
        Ok(ConsoleOutput::new(feed))
    }

    /// Connects to the QMP monitor: bytes of the protocol both ways, cut anywhere.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn qmp(&self, name: &str) -> Result<(ByteInput, Feed<v1::QmpResponse>), Error> {
        let (input, pieces) = ByteInput::new();
        let hello = v1::QmpRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        let more = pieces.map(|input| v1::QmpRequest {
            input,
            ..Default::default()
        });
        let requests = tokio_stream::once(hello).chain(more);
        let feed = self.feed(self.service().qmp(requests).await)?;
        Ok((input, feed))
    }

    /// Puts the request id into a request that has none.
    fn identify(&self, request_id: &mut String) {
        if request_id.is_empty() {
            request_id.clone_from(&self.request_id);
        }
    }

    /// The request with the deadline.
    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(time) = self.deadline {
            request.set_timeout(time);
        }
        request
    }

    fn service(&self) -> VmServiceClient<Channel> {
        self.service.clone()
    }

    fn answer<T>(&self, reply: Result<Response<T>, Status>) -> Result<T, Error> {
        reply
            .map(Response::into_inner)
            .map_err(|status| Error::from_status(&self.endpoint, status))
    }

    fn feed<T>(
        &self,
        reply: Result<Response<tonic::Streaming<T>>, Status>,
    ) -> Result<Feed<T>, Error> {
        Ok(Feed::new(self.endpoint.clone(), self.answer(reply)?))
    }
}
