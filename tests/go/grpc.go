// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The echo service, written out instead of generated: messages are google.protobuf.StringValue.
const (
	service      = "lab.Echo"
	unaryMethod  = "/lab.Echo/Unary"
	streamMethod = "/lab.Echo/Stream"
)

type echo interface{ name() string }

type echoServer string

func (server echoServer) name() string { return string(server) }

func newEchoServer(name string) *grpc.Server {
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*echo)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: answerUnary}},
		Streams: []grpc.StreamDesc{{
			StreamName: "Stream", Handler: answerStream, ServerStreams: true, ClientStreams: true,
		}},
	}, echoServer(name))
	return server
}

func answerUnary(server any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	message := new(wrapperspb.StringValue)
	if err := decode(message); err != nil {
		return nil, err
	}
	return wrapperspb.String(server.(echo).name() + " " + message.Value), nil
}

func answerStream(server any, stream grpc.ServerStream) error {
	for {
		message := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(wrapperspb.String(server.(echo).name() + " " + message.Value)); err != nil {
			return err
		}
	}
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
}

func unary(arguments []string) error {
	count, err := number(arguments[1])
	if err != nil {
		return err
	}
	connection, err := dial(arguments[0])
	if err != nil {
		return err
	}
	defer connection.Close()
	seen := tally{}
	for range count {
		answer := new(wrapperspb.StringValue)
		if err := connection.Invoke(context.Background(), unaryMethod, wrapperspb.String("x"), answer); err != nil {
			return err
		}
		seen[answer.Value]++
	}
	seen.print()
	return nil
}

func stream(arguments []string) error {
	count, err := number(arguments[1])
	if err != nil {
		return err
	}
	connection, err := dial(arguments[0])
	if err != nil {
		return err
	}
	defer connection.Close()
	both := &grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true}
	open, err := connection.NewStream(context.Background(), both, streamMethod)
	if err != nil {
		return err
	}
	seen := tally{}
	for turn := range count {
		if err := open.SendMsg(wrapperspb.String(fmt.Sprint(turn))); err != nil {
			return err
		}
		answer := new(wrapperspb.StringValue)
		if err := open.RecvMsg(answer); err != nil {
			return err
		}
		var name string
		var echoed int
		if _, err := fmt.Sscan(answer.Value, &name, &echoed); err != nil || echoed != turn {
			return fmt.Errorf("turn %d answered with %q", turn, answer.Value)
		}
		seen[name]++
	}
	if err := open.CloseSend(); err != nil {
		return err
	}
	if err := open.RecvMsg(new(wrapperspb.StringValue)); err != io.EOF {
		return fmt.Errorf("the stream ended with %v", err)
	}
	seen.print()
	return nil
}
