//! Modbus TCP over the vessels, and the ways to do it badly.

use std::{
    future::{Future, pending},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_modbus::{
    ExceptionCode, Request, Response, SlaveRequest,
    server::{Service, tcp::Server},
};
use tokio_util::sync::CancellationToken;

use crate::{Mode, Shared, Vessel};

/// Serve until dropped. A change of the mode closes all connections.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut mode: watch::Receiver<Mode>,
) {
    let server = Server::new(listener);
    loop {
        let now = *mode.borrow_and_update();
        shared.set_serving(now);
        let round = CancellationToken::new();
        let _end = round.clone().drop_guard();
        let connected = async |stream: TcpStream, _: SocketAddr| {
            if now == Mode::Garbage {
                tokio::spawn(round.clone().run_until_cancelled_owned(babble(stream)));
                return Ok(None);
            }
            Ok(Some((
                Unit {
                    shared: Arc::clone(&shared),
                    mode: now,
                },
                stream,
            )))
        };
        tokio::select! {
            _ = server.serve(&connected, |_: io::Error| {}) => return,
            changed = mode.changed() => if changed.is_err() { return },
        }
    }
}

/// Answer whatever comes with what is no Modbus.
async fn babble(mut stream: TcpStream) {
    let mut request = [0; 260];
    while let Ok(2..) = stream.read(&mut request).await {
        // As long as it says it is, so that nobody waits for the rest.
        let answer = [request[0], request[1], 0xde, 0xad, 0, 3, 0xbe, 0xef, 0x99];
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

struct Unit {
    shared: Arc<Shared>,
    mode: Mode,
}

type Answer = Result<Response, ExceptionCode>;

impl Service for Unit {
    type Request = SlaveRequest<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        match self.mode {
            Mode::Normal | Mode::Garbage => {
                let mut units = self.shared.units();
                let unit = usize::from(request.slave).wrapping_sub(1);
                let vessel = units
                    .get_mut(unit)
                    .ok_or(ExceptionCode::GatewayTargetDevice);
                let answer = vessel.and_then(|vessel| answer(vessel, request.request));
                Box::pin(std::future::ready(answer))
            }
            Mode::Hang => Box::pin(pending()),
            Mode::Exception => {
                Box::pin(std::future::ready(Err(ExceptionCode::ServerDeviceFailure)))
            }
        }
    }
}

fn answer(vessel: &mut Vessel, request: Request<'_>) -> Answer {
    Ok(match request {
        Request::ReadCoils(at, count) => Response::ReadCoils(read(&vessel.coils(), at, count)?),
        Request::ReadDiscreteInputs(at, count) => {
            Response::ReadDiscreteInputs(read(&vessel.discrete_inputs(), at, count)?)
        }
        Request::ReadInputRegisters(at, count) => {
            Response::ReadInputRegisters(read(&vessel.input(), at, count)?)
        }
        Request::ReadHoldingRegisters(at, count) => {
            Response::ReadHoldingRegisters(read(&vessel.holding, at, count)?)
        }
        Request::WriteSingleCoil(0, on) => {
            vessel.running = on;
            Response::WriteSingleCoil(0, on)
        }
        Request::WriteMultipleCoils(0, on) if on.len() == 1 => {
            vessel.running = on[0];
            Response::WriteMultipleCoils(0, 1)
        }
        Request::WriteSingleRegister(at, word) => {
            write(vessel, at, &[word])?;
            Response::WriteSingleRegister(at, word)
        }
        Request::WriteMultipleRegisters(at, words) => {
            write(vessel, at, &words)?;
            Response::WriteMultipleRegisters(at, words.len() as u16)
        }
        Request::WriteSingleCoil(..) | Request::WriteMultipleCoils(..) => {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        _ => return Err(ExceptionCode::IllegalFunction),
    })
}

fn read<T: Copy>(table: &[T], at: u16, count: u16) -> Result<Vec<T>, ExceptionCode> {
    let at = usize::from(at);
    let found = table.get(at..at + usize::from(count));
    found
        .filter(|_| count > 0)
        .map(<[T]>::to_vec)
        .ok_or(ExceptionCode::IllegalDataAddress)
}

fn write(vessel: &mut Vessel, at: u16, words: &[u16]) -> Result<(), ExceptionCode> {
    let at = usize::from(at);
    let found = vessel.holding.get_mut(at..at + words.len());
    found
        .map(|to| to.copy_from_slice(words))
        .ok_or(ExceptionCode::IllegalDataAddress)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use tokio_modbus::{Slave, client::Context, prelude::*};

    use super::*;
    use crate::{Options, Plc};

    fn plc() -> Plc {
        let options = Options {
            drift: false,
            ..Options::default()
        };
        Plc::start_with(([127, 0, 0, 1], 0).into(), options).unwrap()
    }

    async fn connect(plc: &Plc, unit: u8) -> Context {
        tcp::connect_slave(plc.address(), Slave(unit))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn values_are_read_and_the_setpoint_is_written() {
        let plc = plc();
        plc.change(2, |vessel| {
            vessel.temperature = -12.3;
            vessel.pressure = 1.5;
            vessel.counter = 70_000;
        });
        let mut client = connect(&plc, 2).await;
        let input = client.read_input_registers(0, 5).await.unwrap().unwrap();
        assert_eq!(input, [-123i16 as u16, 0x3fc0, 0, 1, 4464]);
        client.write_single_register(0, 333).await.unwrap().unwrap();
        client.write_single_coil(0, false).await.unwrap().unwrap();
        assert_eq!(
            client.read_holding_registers(0, 1).await.unwrap().unwrap(),
            [333]
        );
        let now = plc.registers(2).unwrap();
        assert_eq!((now.setpoint(), now.running), (33.3, false));
        assert_eq!(plc.setpoint(), 215);
        assert_eq!(
            client.read_holding_registers(120, 10).await.unwrap(),
            Err(ExceptionCode::IllegalDataAddress)
        );
        assert_eq!(plc.requests(), 5);
        let nobody = connect(&plc, 9).await.read_coils(0, 1).await.unwrap();
        assert_eq!(nobody, Err(ExceptionCode::GatewayTargetDevice));
    }

    #[tokio::test]
    async fn it_misbehaves_as_told_and_recovers() {
        let plc = plc();
        let mut old = connect(&plc, 1).await;
        old.read_coils(0, 1).await.unwrap().unwrap();
        plc.set_mode(Mode::Exception);
        let closed = async { while old.read_coils(0, 1).await.is_ok() {} };
        timeout(Duration::from_secs(5), closed).await.unwrap();
        let failure = connect(&plc, 1).await.read_coils(0, 1).await.unwrap();
        assert_eq!(failure, Err(ExceptionCode::ServerDeviceFailure));
        plc.set_mode(Mode::Garbage);
        let mut client = connect(&plc, 1).await;
        assert!(
            timeout(Duration::from_secs(5), client.read_coils(0, 1))
                .await
                .unwrap()
                .is_err()
        );
        plc.set_mode(Mode::Hang);
        let mut client = connect(&plc, 1).await;
        assert!(
            timeout(Duration::from_millis(100), client.read_coils(0, 1))
                .await
                .is_err()
        );
        plc.set_mode(Mode::Normal);
        assert_eq!(
            connect(&plc, 1)
                .await
                .read_coils(0, 1)
                .await
                .unwrap()
                .unwrap(),
            [true]
        );
    }
}
