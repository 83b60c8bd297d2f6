# Runs a Perl handler, `sub handler { my ($event, $context) = @_; ... }`, over the AWS Lambda Runtime API.
#
# Nova starts it once per guest with the handler's name in _HANDLER: `main.handler` is the sub `handler`
# of /var/task/main.pl or main.pm, `main.Orders::create` the sub of a package in it. It fetches events,
# calls the handler, and sends back what it returns or dies of.
use strict;
use warnings;

package NovaRuntime::Context;
use Time::HiRes ();

# What a handler may ask about its call.
sub new {
    my ($class, $headers) = @_;
    return bless {
        aws_request_id => $headers->{'lambda-runtime-aws-request-id'},
        invoked_function_arn => $headers->{'lambda-runtime-invoked-function-arn'},
        deadline_ms => $headers->{'lambda-runtime-deadline-ms'},
        function_name => $ENV{AWS_LAMBDA_FUNCTION_NAME},
        function_version => $ENV{AWS_LAMBDA_FUNCTION_VERSION},
        memory_limit_in_mb => $ENV{AWS_LAMBDA_FUNCTION_MEMORY_SIZE},
        log_group_name => $ENV{AWS_LAMBDA_LOG_GROUP_NAME},
        log_stream_name => $ENV{AWS_LAMBDA_LOG_STREAM_NAME},
    }, $class;
}

for my $field (
    qw(aws_request_id invoked_function_arn deadline_ms function_name function_version
    memory_limit_in_mb log_group_name log_stream_name)
    )
{
    no strict 'refs';
    *{$field} = sub { $_[0]{$field} };
}

sub get_remaining_time_in_millis {
    my ($self) = @_;
    my $left = $self->{deadline_ms} - int(Time::HiRes::time() * 1000);
    return $left > 0 ? $left : 0;
}

package NovaRuntime;
use Carp ();
use IO::Socket::INET;
use JSON::PP;
use Scalar::Util qw(blessed);
use Socket qw(IPPROTO_TCP TCP_NODELAY);

my $RUNTIME = '/2018-06-01/runtime';
my $TASK_ROOT = $ENV{LAMBDA_TASK_ROOT} || '/var/task';
my $json = JSON::PP->new->utf8->allow_nonref->canonical->convert_blessed;
my $socket;

sub connect_to_api {
    $socket = IO::Socket::INET->new(PeerAddr => $ENV{AWS_LAMBDA_RUNTIME_API}, Proto => 'tcp')
        or die "cannot reach the Runtime API: $@\n";
    setsockopt($socket, IPPROTO_TCP, TCP_NODELAY, 1);
    binmode $socket;
    $socket->autoflush(1);
    return;
}

sub request {
    my ($method, $path, $body, @headers) = @_;
    my @lines = ("$method $path HTTP/1.1", 'Host: runtime', 'Content-Length: ' . length $body, @headers);
    print {$socket} join("\r\n", @lines), "\r\n\r\n", $body;
    my $status = <$socket>;
    if (!defined $status) {
        print STDERR "the Runtime API closed the connection\n";
        exit 1;
    }
    my %answer;
    while (defined(my $line = <$socket>)) {
        $line =~ s/\r?\n\z//;
        last if $line eq '';
        my ($name, $value) = split /:\s*/, $line, 2;
        $answer{lc $name} = $value;
    }
    my $text = '';
    read $socket, $text, $answer{'content-length'} || 0;
    # Or every `die` of the handler would say which line of the connection was read last.
    $. = 0;
    return ((split ' ', $status)[1], \%answer, $text);
}

# An error with a type of its own.
sub named_error {
    my ($type, $message) = @_;
    return bless { type => $type, message => $message }, 'NovaRuntime::NamedError';
}

# The stack where something died, for an error that does not carry one.
my @stack_at_death;

sub remember_stack {
    my @lines = split /\n/, Carp::longmess('');
    # The innermost frame is the handler of `die` itself.
    my @frames = map { s/^\s+//r =~ s/^NovaRuntime::__ANON__\(.*\) called //r } @lines;
    @stack_at_death = grep { !/\Q$0\E/ && /\S/ } @frames;
    return;
}

sub error_object {
    my ($error, @more) = @_;
    my ($type, $message) = ('Error', "$error");
    if (blessed $error && $error->isa('NovaRuntime::NamedError')) {
        ($type, $message) = ($error->{type}, $error->{message});
    }
    elsif (blessed $error) {
        $type = ref $error;
        $message = $error->message if $error->can('message');
    }
    elsif (ref $error) {
        $message = eval { $json->encode($error) } || "$error";
    }
    utf8::decode($message);
    $message =~ s/\s+\z//;
    my @stack = @stack_at_death;
    print STDERR "[ERROR] $type: $message\n", map { "  $_\n" } @stack;
    return { errorMessage => $message, errorType => $type, stackTrace => \@stack, @more };
}

sub report {
    my ($path, $fields) = @_;
    my $type = $fields->{errorType} =~ /^Runtime\./ ? $fields->{errorType} : 'Function.Error';
    my @headers = ('Content-Type: application/json', "Lambda-Runtime-Function-Error-Type: $type");
    request('POST', $path, $json->encode($fields), @headers);
    return;
}

sub load_handler {
    my ($name) = @_;
    my ($base, $function) = $name =~ m{^((?:[^/]+/)*[^./]+)\.(.+)$};
    if (!defined $function) {
        die named_error('Runtime.MalformedHandlerName', "bad handler '$name': it is `file.function`");
    }
    my ($file) = grep { -f } map { "$TASK_ROOT/$base.$_" } qw(pl pm);
    die named_error('Runtime.ImportModuleError', "there is no file $TASK_ROOT/$base.pl") if !$file;
    {
        # A file runs in the package that its `sub`s are looked up in.
        package main;
        my $ok = do $file;
        if (!defined $ok && $@) {
            my $error = $@;
            die $error if ref $error;
            my $type =
                $error =~ /^(?:syntax error|Global symbol|Can't find string|Missing right|Unmatched|Bareword)/m
                ? 'Runtime.UserCodeSyntaxError'
                : $error =~ /^Can't locate / ? 'Runtime.ImportModuleError'
                :                              'Runtime.InitError';
            die NovaRuntime::named_error($type, "cannot load $file: $error");
        }
    }
    my $found = main->can($function);
    if (!$found && $function =~ /^(.+)::([^:]+)$/) {
        $found = $1->can($2);
    }
    die named_error('Runtime.HandlerNotFound', "handler '$function' is missing in $file") if !$found;
    return $found;
}

sub serve {
    my ($handler) = @_;
    while (1) {
        my ($status, $headers, $body) = request('GET', "$RUNTIME/invocation/next", '');
        if ($status != 200) {
            print STDERR "the Runtime API answered $status: $body\n";
            exit 1;
        }
        my $context = NovaRuntime::Context->new($headers);
        local $ENV{_X_AMZN_TRACE_ID} = $headers->{'lambda-runtime-trace-id'} || '';
        my $target = "$RUNTIME/invocation/" . $context->aws_request_id;
        @stack_at_death = ();
        my $answer;
        my $done = eval {
            local $SIG{__DIE__} = sub { remember_stack() };
            my $result = $handler->($json->decode($body), $context);
            local $SIG{__DIE__};
            $answer = eval { $json->encode($result) };
            die named_error('Runtime.MarshalError', "the result is no JSON: $@") if !defined $answer;
            1;
        };
        if ($done) {
            request('POST', "$target/response", $answer, 'Content-Type: application/json');
        }
        else {
            report("$target/error", error_object($@, requestId => $context->aws_request_id));
        }
    }
    return;
}

STDOUT->autoflush(1);
STDERR->autoflush(1);
binmode STDOUT, ':utf8';
binmode STDERR, ':utf8';
unshift @INC, $TASK_ROOT, '/opt/perl5/lib';
connect_to_api();
my $handler = eval { load_handler($ENV{_HANDLER}) };
if (!$handler) {
    report("$RUNTIME/init/error", error_object($@));
    exit 1;
}
serve($handler);
