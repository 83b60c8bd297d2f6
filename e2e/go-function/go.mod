module https

go 1.27
