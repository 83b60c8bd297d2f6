<?php
// Does what its input names; see ../misbehaving.rs.
function opens(string $path, string $mode): bool
{
    $file = @fopen($path, $mode);
    return $file !== false && fclose($file);
}

function processes(): int
{
    $numbers = array_filter(scandir('/proc'), 'ctype_digit');
    return count(array_filter($numbers, fn ($number) => fileowner("/proc/$number") === posix_getuid()));
}

switch (json_decode(file_get_contents($argv[1]))) {
    case 'throw':
        throw new DomainException('no such order');
    case 'exit':
        exit(1);
    case 'print':
        echo "a forgotten print\n";
        break;
    case 'log':
        fwrite(STDERR, str_repeat(str_repeat('x', 1023) . "\n", 2048));
        break;
    case 'fork':
        for ($made = 0; $made < 5; $made++) {
            shell_exec('sleep 1000 >/dev/null 2>&1 &');
        }
        break;
    case 'allocate':
        for ($blocks = []; count($blocks) < 1000;) {
            $blocks[] = str_repeat('x', 1 << 20);
        }
        break;
    case 'loop':
        while (true) {
        }
    case 'utf8':
        echo "\"\xFF\xFE\"\n";
        exit;
    case 'nan':
        echo NAN, "\n";
        exit;
}

echo json_encode([
    'processes' => processes(),
    'reads_shadow' => opens('/etc/shadow', 'r'),
    'writes_code' => opens('/code/new', 'w'),
]), "\n";
