# Starts an assembly: the handler's path and its arguments.
#
# dotnet runs only files that are named like assemblies, so that a single file deployed without a name gets one; and
# it wants settings beside the assembly, which one that was built by its own SDK has.
handler=$1
shift
case $handler in
*.dll | *.exe) ;;
*)
    cp "$handler" /tmp/handler.dll
    handler=/tmp/handler.dll
    ;;
esac
if [ -e "${handler%.*}.runtimeconfig.json" ]; then
    exec /usr/lib/dotnet/dotnet exec "$handler" "$@"
fi
exec /usr/lib/dotnet/dotnet exec --runtimeconfig /usr/lib/nova/dotnet.runtimeconfig.json "$handler" "$@"
