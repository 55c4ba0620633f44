//! The calls of `VmService`, one method each: names and typed values in, messages out.

use tokio_stream::StreamExt;
use tonic::{Response, Status, transport::Channel};

use crate::{
    ByteInput, ConsoleOutput, Endpoint, Error, EventStream, Feed, RecordStream, VmStream,
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
}

/// Writes a method for each call that takes a machine's name and answers a `CommandResponse`.
macro_rules! commands {
    ($($(#[$doc:meta])* $method:ident => $call:ident($request:ident);)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// See [`Client`].
        pub async fn $method(&self, name: &str) -> Result<v1::CommandResponse, Error> {
            let request = v1::$request { name: name.to_owned() };
            self.answer(self.service().$call(request).await)
        }
    )*};
}

impl Client {
    /// Connects to the daemon at `endpoint`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if nobody answers there.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, Error> {
        let channel = transport::connect(endpoint).await?;
        let service = VmServiceClient::new(channel).max_decoding_message_size(REPLY_MAX);
        Ok(Self {
            endpoint: endpoint.clone(),
            service,
        })
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
        request: v1::CreateVmRequest,
    ) -> Result<v1::CreateVmResponse, Error> {
        self.answer(self.service().create_vm(request).await)
    }

    /// Reads one machine.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn get(&self, name: &str) -> Result<v1::Vm, Error> {
        let request = v1::GetVmRequest {
            name: name.to_owned(),
        };
        let reply = self.answer(self.service().get_vm(request).await)?;
        reply
            .vm
            .ok_or(Error::Malformed("a machine was asked for and none came"))
    }

    /// Reads all machines, ordered by name.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn list(&self) -> Result<v1::ListVmsResponse, Error> {
        self.answer(self.service().list_vms(v1::ListVmsRequest {}).await)
    }

    /// Forgets a machine that has ended; with `force`, quits it first. Answers the sequence number
    /// of its last event.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn delete(&self, name: &str, force: bool) -> Result<u64, Error> {
        let request = v1::DeleteVmRequest {
            name: name.to_owned(),
            force,
        };
        Ok(self.answer(self.service().delete_vm(request).await)?.seq)
    }

    /// Builds a machine that has ended anew and starts it; with `paused` it stays in prelaunch.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn start(&self, name: &str, paused: bool) -> Result<v1::CommandResponse, Error> {
        let request = v1::StartVmRequest {
            name: name.to_owned(),
            paused,
        };
        self.answer(self.service().start_vm(request).await)
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
        };
        self.answer(self.service().set_action(request).await)
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
        let name = name.unwrap_or_default().to_owned();
        let request = v1::WatchEventsRequest {
            after_seq,
            name,
            history_only,
        };
        self.feed(self.service().watch_events(request).await)
    }

    /// Streams one machine, or all, as they are and as they change.
    ///
    /// # Errors
    /// See [`Client`].
    pub async fn watch_vms(&self, name: Option<&str>) -> Result<VmStream, Error> {
        let request = v1::WatchVmsRequest {
            name: name.unwrap_or_default().to_owned(),
        };
        self.feed(self.service().watch_vms(request).await)
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
        self.feed(self.service().record(request).await)
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
